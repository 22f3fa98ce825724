//! Which fields an answer has: those that the protocol names for its verb, each of them, and no other.

use doozer::wire::{Response, Verb};

/// Whether an answer to this verb, or its refusal, has the fields that it is to have.
pub fn has_its_fields(verb: Verb, is_refused: bool, answer: &Response<'_>) -> bool {
    let Response { flags, rev, path, value, len, err_detail, .. } = answer;
    let there = (flags.is_some(), rev.is_some(), path.is_some(), value.is_some(), len.is_some());
    if is_refused {
        return there == (false, false, false, false, false);
    }
    err_detail.is_none()
        && match verb {
            Verb::Del | Verb::Nop | Verb::Access => there == (false, false, false, false, false),
            Verb::Set | Verb::Rev | Verb::Sync => there == (false, true, false, false, false),
            Verb::Get => there == (false, true, false, true, false),
            Verb::Stat => there == (false, true, false, false, true),
            Verb::Getdir => there == (false, false, true, false, false),
            Verb::SelfId | Verb::Stats => there == (false, false, false, true, false),
            Verb::Walk | Verb::Wait => there == (true, true, true, true, false),
        }
}
