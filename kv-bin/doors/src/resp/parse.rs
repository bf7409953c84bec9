//! The parser of requests. It takes input in pieces of any size, and checks each announced length before it waits for
//! the data. So a connection never holds more memory than its limits allow.

use bytes::{Buf as _, Bytes, BytesMut};

/// The longest line of an inline command.
const MAX_INLINE: usize = 64 << 10;
/// The longest line that announces a length: a sign, 20 digits and the end of the line fit.
const MAX_LENGTH_LINE: usize = 32;

/// A request: the name of a command and its arguments. It is never empty.
pub(crate) type Request = Vec<Bytes>;

/// What a client sent is not valid RESP, or exceeds a limit. The connection cannot continue, because the parser cannot
/// know where the next request begins.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("Protocol error: invalid multibulk length")]
    ArrayLength,
    #[error("Protocol error: invalid multibulk length: {count} arguments, at most {max} are allowed")]
    TooManyArguments { count: usize, max: usize },
    #[error("Protocol error: expected '$', got '{0}'")]
    ExpectedBulk(char),
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    #[error("Protocol error: invalid bulk length: the request would have more than {max} bytes")]
    RequestTooLarge { max: usize },
    #[error("Protocol error: an argument is not followed by CR LF")]
    NoLineEnd,
    #[error("Protocol error: too big inline request")]
    InlineTooLong,
    #[error("Protocol error: too big {0} count string")]
    LengthTooLong(&'static str),
    #[error("Protocol error: the request begins with a control character")]
    ControlCharacter,
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

/// The limits of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ParserLimits {
    pub(crate) max_arguments: usize,
    /// The names, arguments and lengths of one request together.
    pub(crate) max_request_bytes: usize,
}

/// The state between two pieces of input.
#[derive(Debug)]
pub(crate) struct Parser {
    limits: ParserLimits,
    /// The arguments that have arrived of an unfinished request.
    arguments: Request,
    /// How many arguments are missing; 0 between two requests.
    missing: usize,
    /// The announced length of the next argument, if that has arrived.
    bulk: Option<usize>,
    /// How many bytes the unfinished request has announced.
    announced: usize,
    /// How many bytes at the start of the input contain no end of a line.
    searched: usize,
}

impl Parser {
    pub(crate) fn new(limits: ParserLimits) -> Self {
        Self { limits, arguments: Vec::new(), missing: 0, bulk: None, announced: 0, searched: 0 }
    }

    /// How much memory the unfinished request takes, except what is still in the input.
    pub(crate) fn bytes(&self) -> usize {
        bytes_of(&self.arguments)
    }

    /// Takes the next request from the start of `input`; `None` if it is not complete.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Request>, ProtocolError> {
        loop {
            if self.missing > 0 {
                let is_complete = match self.bulk {
                    Some(length) => self.take_bulk(input, length)?,
                    None => self.take_bulk_length(input)?,
                };
                if !is_complete {
                    return Ok(None);
                }
                if self.missing == 0 {
                    return Ok(Some(std::mem::take(&mut self.arguments)));
                }
                continue;
            }
            let request = match input.first() {
                None => return Ok(None),
                Some(b'*') => {
                    if !self.take_array_length(input)? {
                        return Ok(None);
                    }
                    continue;
                }
                // For example a TLS handshake, which may contain lines that look like commands.
                Some(byte) if byte.is_ascii_control() && !byte.is_ascii_whitespace() => {
                    return Err(ProtocolError::ControlCharacter);
                }
                Some(_) => match self.take_line(input, MAX_INLINE, &ProtocolError::InlineTooLong)? {
                    None => return Ok(None),
                    Some(line) => split_inline(&line)?,
                },
            };
            // An empty line is no request.
            if !request.is_empty() {
                return Ok(Some(request));
            }
        }
    }

    /// Returns whether the line was complete.
    fn take_array_length(&mut self, input: &mut BytesMut) -> Result<bool, ProtocolError> {
        let too_long = ProtocolError::LengthTooLong("mbulk");
        let Some(line) = self.take_line(input, MAX_LENGTH_LINE, &too_long)? else { return Ok(false) };
        let count = integer(&line[1..]).ok_or(ProtocolError::ArrayLength)?;
        // As in Redis, an array with no elements is no request.
        let count = usize::try_from(count).unwrap_or(0);
        let max = self.limits.max_arguments;
        if count > max {
            return Err(ProtocolError::TooManyArguments { count, max });
        }
        self.missing = count;
        self.announced = 0;
        self.arguments = Vec::with_capacity(count.min(16));
        Ok(true)
    }

    fn take_bulk_length(&mut self, input: &mut BytesMut) -> Result<bool, ProtocolError> {
        match input.first() {
            None => return Ok(false),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::ExpectedBulk(char::from(*other))),
        }
        let too_long = ProtocolError::LengthTooLong("bulk");
        let Some(line) = self.take_line(input, MAX_LENGTH_LINE, &too_long)? else { return Ok(false) };
        let length = integer(&line[1..]).and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or(ProtocolError::BulkLength)?;
        let max = self.limits.max_request_bytes;
        self.announced = self.announced.saturating_add(length).saturating_add(line.len());
        if self.announced > max {
            return Err(ProtocolError::RequestTooLarge { max });
        }
        self.bulk = Some(length);
        Ok(true)
    }

    fn take_bulk(&mut self, input: &mut BytesMut, length: usize) -> Result<bool, ProtocolError> {
        if input.len() < length + 2 {
            return Ok(false);
        }
        if input[length..length + 2] != *b"\r\n" {
            return Err(ProtocolError::NoLineEnd);
        }
        self.arguments.push(input.split_to(length).freeze());
        input.advance(2);
        self.bulk = None;
        self.missing -= 1;
        Ok(true)
    }

    /// Takes a line, without its end; `None` if it is not complete.
    fn take_line(
        &mut self,
        input: &mut BytesMut,
        max: usize,
        too_long: &ProtocolError,
    ) -> Result<Option<BytesMut>, ProtocolError> {
        let found = input[self.searched..].iter().position(|&byte| byte == b'\n');
        let Some(end) = found.map(|at| at + self.searched) else {
            self.searched = input.len();
            return if input.len() > max { Err(too_long.clone()) } else { Ok(None) };
        };
        self.searched = 0;
        if end > max {
            return Err(too_long.clone());
        }
        let mut line = input.split_to(end);
        input.advance(1);
        if line.last() == Some(&b'\r') {
            line.truncate(end - 1);
        }
        Ok(Some(line))
    }
}

/// How much memory a request takes.
pub(crate) fn bytes_of(request: &[Bytes]) -> usize {
    request.iter().map(|word| word.len() + size_of::<Bytes>()).sum()
}

/// A whole number in decimal digits, without a plus sign.
pub(crate) fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if is_number { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// Splits an inline command at spaces. Quotes work as in Redis: `"..."` with escapes such as `\n` and `\x41`, and
/// `'...'` with the escape `\'`.
fn split_inline(line: &[u8]) -> Result<Request, ProtocolError> {
    let mut request = Vec::new();
    let mut rest = line;
    loop {
        let start = rest.iter().position(|byte| !is_space(*byte));
        let Some(start) = start else { return Ok(request) };
        rest = &rest[start..];
        let (word, after) = word(rest)?;
        request.push(Bytes::from(word));
        rest = after;
    }
}

const fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0 || byte == 0x0b
}

/// One word of an inline command, and what follows it.
fn word(text: &[u8]) -> Result<(Vec<u8>, &[u8]), ProtocolError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' | b'\'' => {
                at = quoted(text, at + 1, byte, &mut found)?;
                // A closing quote must end the word.
                return match text.get(at) {
                    Some(&next) if !is_space(next) => Err(ProtocolError::UnbalancedQuotes),
                    _ => Ok((found, &text[at..])),
                };
            }
            byte if is_space(byte) => break,
            byte => found.push(byte),
        }
        at += 1;
    }
    Ok((found, &text[at..]))
}

/// Reads up to the closing `quote`, and returns the position after it.
fn quoted(text: &[u8], mut at: usize, quote: u8, found: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    let hex = |at: usize| text.get(at).and_then(|&byte| char::from(byte).to_digit(16)?.try_into().ok());
    loop {
        match (text.get(at), text.get(at + 1)) {
            (None, _) => return Err(ProtocolError::UnbalancedQuotes),
            (Some(&byte), _) if byte == quote => return Ok(at + 1),
            (Some(b'\\'), Some(b'\'')) if quote == b'\'' => {
                found.push(b'\'');
                at += 2;
            }
            (Some(b'\\'), Some(&escaped)) if quote == b'"' => {
                let digits: (Option<u8>, Option<u8>) = (hex(at + 2), hex(at + 3));
                if let (b'x', (Some(high), Some(low))) = (escaped, digits) {
                    found.push(high << 4 | low);
                    at += 4;
                } else {
                    found.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'b' => 8,
                        b'a' => 7,
                        other => other,
                    });
                    at += 2;
                }
            }
            (Some(&byte), _) => {
                found.push(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ParserLimits = ParserLimits { max_arguments: 8, max_request_bytes: 100 };

    /// Parses `input`, given in pieces of these sizes in turn, up to the first error.
    fn parse(input: &[u8], sizes: &[usize]) -> (Vec<Request>, Option<ProtocolError>) {
        let mut parser = Parser::new(LIMITS);
        let (mut buffer, mut found, mut rest) = (BytesMut::new(), Vec::new(), input);
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            buffer.extend_from_slice(piece);
            rest = after;
            loop {
                match parser.next(&mut buffer) {
                    Ok(Some(request)) => {
                        assert!(!request.is_empty());
                        found.push(request);
                    }
                    Ok(None) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        (found, None)
    }

    fn whole(input: &[u8]) -> (Vec<Request>, Option<ProtocolError>) {
        parse(input, &[usize::MAX])
    }

    fn words(words: &[&str]) -> Request {
        words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }

    #[test]
    fn arrays_and_lines_are_requests() {
        let input =
            b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n\r\n*0\r\n*-1\r\n  set k \"a\\x20\\n\\\"b\" 'it\\'s' \n";
        let (found, error) = whole(input);
        assert_eq!(error, None);
        let expected = [words(&["GET", "k"]), words(&["PING"]), words(&["set", "k", "a \n\"b", "it's"])];
        assert_eq!(found, expected);
    }

    #[test]
    fn each_mistake_has_its_error() {
        use ProtocolError as E;
        let cases: [(&[u8], E); 13] = [
            (b"\x16\x03\x01 \r\nset a b\r\n", E::ControlCharacter),
            (b"*x\r\n", E::ArrayLength),
            (b"*+1\r\n", E::ArrayLength),
            (b"*9\r\n", E::TooManyArguments { count: 9, max: 8 }),
            (b"*1\r\n:1\r\n", E::ExpectedBulk(':')),
            (b"*1\r\n$-1\r\n", E::BulkLength),
            (b"*1\r\n$blabla\r\n", E::BulkLength),
            (b"*1\r\n$101\r\n", E::RequestTooLarge { max: 100 }),
            (b"*2\r\n$60\r\n", E::RequestTooLarge { max: 100 }),
            (b"*1\r\n$1\r\nabc", E::NoLineEnd),
            (b"\"abc\r\n", E::UnbalancedQuotes),
            (b"'a'b\r\n", E::UnbalancedQuotes),
            (b"*11111111111111111111111111111111111", E::LengthTooLong("mbulk")),
        ];
        for (input, expected) in cases {
            let mut input = input.to_vec();
            if input == b"*2\r\n$60\r\n" {
                input.extend_from_slice(&[b'a'; 60]);
                input.extend_from_slice(b"\r\n$60\r\n");
            }
            assert_eq!(whole(&input).1, Some(expected), "{}", input.escape_ascii());
        }
        let endless = vec![b'a'; MAX_INLINE + 1];
        assert_eq!(whole(&endless).1, Some(E::InlineTooLong));
    }

    /// Whatever arrives, in whatever pieces: the parser does not panic, and the pieces make no difference.
    #[test]
    fn how_the_input_is_split_makes_no_difference() {
        let mut random = fastrand::Rng::with_seed(7);
        let valid: &[&[u8]] = &[
            b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
            b"*1\r\n$0\r\n\r\n",
            b"PING\r\n",
            b"set 'a b' \"\\x41\"\n",
            b"\r\n",
        ];
        let noise = b"*$:+-0123456789\r\n\r\n\"'\\xabc ";
        for round in 0..20_000 {
            let mut input = Vec::new();
            for _ in 0..random.usize(1..8) {
                if round % 4 != 0 && random.u8(..10) < 8 {
                    input.extend_from_slice(valid[random.usize(..valid.len())]);
                } else {
                    input.extend((0..random.usize(..12)).map(|_| noise[random.usize(..noise.len())]));
                }
            }
            if random.bool() && !input.is_empty() {
                let at = random.usize(..input.len());
                input[at] = random.u8(..);
            }
            let sizes: Vec<usize> = (0..4).map(|_| random.usize(1..6)).collect();
            assert_eq!(parse(&input, &sizes), whole(&input), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn an_announced_length_takes_no_memory() {
        let mut parser = Parser::new(ParserLimits { max_arguments: 1 << 20, max_request_bytes: 1 << 30 });
        let mut buffer = BytesMut::from(&b"*1000000\r\n$1000000000\r\n"[..]);
        assert_eq!(parser.next(&mut buffer), Ok(None));
        assert!(parser.arguments.capacity() <= 16 && buffer.capacity() < 1000);
    }
}
