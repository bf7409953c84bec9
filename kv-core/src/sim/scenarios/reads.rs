//! Reads that need no word from a quorum: by what a member knows of the age of its state.

use super::super::Bug;
use super::super::plan::Plan;
use super::super::story::{Story, Teller, stories};
use std::time::Duration;

stories! {
    r4_a_backup_behind_a_slow_link_does_not_take_what_it_hears_for_new,
    r4_a_deposed_primary_keeps_no_state_fresh,
}

/// Rule R4 of PROTOCOL.md: what is heard late is old.
fn r4_a_backup_behind_a_slow_link_does_not_take_what_it_hears_for_new(t: &Teller) {
    Story::of(3).finds(Bug::FreshSinceHeard).tell(t, |c| {
        c.put("k", "old");
        let (primary, one) = (c.primary(), c.backups()[0]);
        c.settle();
        c.world.network.lag(primary, one, 100_000_000);
        c.run_for(1_000);
        c.put("k", "new");
        c.run_for(60);
        let reads = [(); 8].map(|()| c.begin_bounded_get(1, "k", 50));
        c.run_for(50);
        c.heal();
        for read in reads {
            assert_eq!(c.value(read).as_deref(), Some("new"));
        }
    });
}

/// Rule R4 of PROTOCOL.md: a primary that others have replaced still tells that it lives.
fn r4_a_deposed_primary_keeps_no_state_fresh(t: &Teller) {
    let patient = |plan: &mut Plan| plan.options.suspect_min = Duration::from_secs(1);
    Story::of(5).with(patient).finds(Bug::FreshUnconfirmed).tell(t, |c| {
        c.put("k", "old");
        let (old, one, far) = (c.primary(), c.backups()[3], c.backups()[0]);
        c.settle();
        for away in (0..5).filter(|member| *member != old && *member != one) {
            for near in [old, one] {
                c.cut(away, near);
                c.cut(near, away);
            }
        }
        for near in [old, one] {
            let client = c.world.client_node(0);
            c.world.network.cut(client, near);
            c.world.network.cut(near, client);
        }
        c.run_until("the others leave", |c| c.view(far) > c.view(old));
        c.put("k", "new");
        c.run_for(110);
        let reads = [(); 8].map(|()| c.begin_bounded_get(1, "k", 100));
        c.run_for(100);
        c.heal();
        for read in reads {
            assert_eq!(c.value(read).as_deref(), Some("new"));
        }
    });
}
