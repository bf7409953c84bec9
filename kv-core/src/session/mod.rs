//! Client sessions: the window of outstanding requests, stored results, expiry. Pure, replicated state.
