//! The terminal in full-screen mode.

use crossterm::event::{Event, EventStream, KeyCode, KeyModifiers};
use crossterm::{cursor, execute, queue, terminal};
use futures::StreamExt as _;
use std::io::{self, Write as _};

/// The whole screen. Dropping it restores the terminal.
#[derive(Debug)]
pub(super) struct Screen {
    events: EventStream,
    has_colours: bool,
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        let has_colours = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        terminal::enable_raw_mode()?;
        let screen = Self { events: EventStream::new(), has_colours };
        execute!(io::stdout(), terminal::EnterAlternateScreen, terminal::DisableLineWrap, cursor::Hide)?;
        Ok(screen)
    }

    /// Shows as much of the text as fits.
    pub(super) fn draw(&mut self, text: &str) -> io::Result<()> {
        let (_, height) = terminal::size()?;
        let mut out = io::stdout().lock();
        queue!(out, terminal::BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
        for line in text.lines().take(usize::from(height.saturating_sub(1))) {
            if self.has_colours {
                write!(out, "{line}")?;
            } else {
                write!(out, "{}", anstream::adapter::strip_str(line))?;
            }
            queue!(out, terminal::Clear(terminal::ClearType::UntilNewLine))?;
            out.write_all(b"\r\n")?;
        }
        queue!(out, terminal::Clear(terminal::ClearType::FromCursorDown), terminal::EndSynchronizedUpdate)?;
        out.flush()
    }

    /// Waits for an event; returns whether the user wants to quit. Cancel safe.
    pub(super) async fn key(&mut self) -> io::Result<bool> {
        match self.events.next().await {
            Some(Ok(Event::Key(key))) => Ok(match key.code {
                KeyCode::Char('q') | KeyCode::Esc => true,
                KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
                _ => false,
            }),
            Some(Ok(_)) => Ok(false),
            Some(Err(error)) => Err(error),
            // The terminal was closed.
            None => Ok(true),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A closed terminal needs nothing.
        let _ =
            execute!(io::stdout(), cursor::Show, terminal::EnableLineWrap, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}
