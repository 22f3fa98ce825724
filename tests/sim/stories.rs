//! The stories that are always told: each is a scenario with a name, and with all its faults where they are wanted.

mod disks;
mod hostile;
mod leaders;
mod members;
mod partitions;
mod restarts;
mod snapshots;
mod strangers;

use std::cell::Cell;
use std::ops::Range;

/// A scenario, which panics if the cluster does not keep its promises.
pub type Story = fn();

thread_local! {
    static SOAKING: Cell<bool> = const { Cell::new(false) };
}

/// Tells a story with all the seeds that it has. Most of them are enough only together; each test run takes the first few.
pub fn soak(story: Story) {
    SOAKING.set(true);
    story();
    SOAKING.set(false);
}

/// The seeds of a story: the first few of them, or all in a soak.
fn seeds(few: usize, all: Range<u64>) -> impl Iterator<Item = u64> {
    let take = if SOAKING.get() { usize::MAX } else { few };
    all.take(take)
}

// `(soak)`: it has more seeds than each test run takes.
macro_rules! list {
    ($($module:ident: $($name:ident $(($soak:ident))?),+ $(,)?;)*) => {
        /// All of them, by module and name.
        pub const STORIES: &[(&str, Story)] =
            &[$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name)),+),*];

        /// Those that a soak tells, with all their seeds.
        pub const SOAKS: &[(&str, Story)] =
            &[$($($((concat!(stringify!($soak), "::", stringify!($module), "::", stringify!($name)), $module::$name),)?)+)*];
    };
}

list! {
    disks:
        a_single_node_with_a_stuck_disk_says_so_and_refuses_writes,
        a_leader_whose_disk_is_stuck_hands_over_within_a_second (soak),
        a_follower_with_a_stuck_disk_refuses_writes_and_the_others_write_on (soak),
        a_leader_without_a_majority_of_working_disks_says_whose_are_stuck,
        a_stuck_segment_refuses_writes_when_the_log_has_no_room;
    hostile:
        a_hostile_member_stops_nobody_and_changes_nothing (soak),
        a_hostile_member_harms_no_single_node (soak);
    restarts:
        a_node_is_announced_when_it_has_caught_up (soak),
        a_node_that_knows_none_of_the_members_is_announced_when_it_has_caught_up (soak),
        a_write_at_a_node_that_catches_up_slowly_waits_for_it,
        a_node_without_a_majority_is_announced_soon_and_says_that_there_is_none,
        a_cluster_that_starts_is_not_said_to_have_lost_its_quorum (soak),
        a_leader_that_stops_waits_for_a_majority_that_is_catching_up (soak),
        a_leader_that_stops_counts_on_a_node_that_stops_too (soak),
        a_node_that_stops_warns_of_a_majority_that_is_not_left;
    leaders:
        when_the_leader_is_killed_and_disks_are_slow_the_first_election_that_fails_is_not_the_last (soak),
        when_the_leader_is_killed_others_write_on_within_300_ms (soak),
        when_the_leader_goes_dark_others_write_on_within_a_second_or_two (soak),
        a_leader_that_hung_finds_another_in_its_place (soak),
        a_leader_that_is_cut_off_refuses_writes_and_serves_reads (soak),
        a_leader_that_stops_hands_over_first (soak),
        a_rolling_restart_is_not_noticed_by_the_clients_of_others,
        all_are_killed_at_once_and_come_up_again,
        outstanding_writes_survive_one_leader_after_the_other,
        a_disk_that_has_room_again_may_lead_again;
    members:
        a_cluster_grows_and_shrinks_under_load,
        nodes_that_are_started_in_any_order_find_each_other,
        a_standby_takes_the_place_of_a_member_that_died,
        a_member_that_was_forgotten_comes_back,
        a_machine_that_slept_blames_its_peers_for_the_silence,
        a_member_that_was_taken_out_moves_in_again,
        a_leader_that_is_put_out_of_its_slot_hands_over,
        a_member_whose_log_is_damaged_comes_back_from_the_others,
        a_node_that_lost_its_disk_joins_as_a_new_one,
        a_node_that_loses_its_disk_again_and_again_is_always_taken_in,
        a_node_that_was_forgotten_hears_it_of_a_member_that_was_forgotten_too,
        nodes_that_nobody_reaches_where_they_say_are_reached_where_they_were (soak),
        two_nodes_that_claim_one_address_are_two,
        a_slot_that_goes_while_a_promotion_into_it_is_on_its_way_stays_gone;
    partitions:
        in_a_chain_of_three_everyone_writes,
        in_a_line_of_five_everyone_writes,
        a_stale_hub_lets_the_others_elect_a_leader (soak),
        one_way_loss_between_two_nodes_stops_nobody,
        a_leader_that_is_only_half_connected_is_replaced (soak),
        the_larger_part_goes_on_and_the_smaller_one_says_so (soak),
        without_a_majority_anywhere_everything_waits_for_better_times,
        writes_are_refused_within_the_time_that_is_promised,
        a_way_that_flaps_stops_nobody_for_long (soak),
        links_that_break_all_the_time_lose_nothing,
        a_node_that_starts_slowly_sees_its_links_flap (soak);
    strangers:
        nodes_prove_the_secret_whatever_becomes_of_their_connections (soak),
        a_member_without_the_secret_is_linked_with_nobody;
    snapshots:
        a_leader_that_was_started_anew_brings_up_to_date_the_one_that_it_cannot_do_without,
        a_node_that_was_away_for_long_gets_the_state,
        a_read_of_a_revision_that_the_state_skips_is_too_late,
        a_transfer_that_is_cut_goes_on_or_comes_again,
        a_transfer_goes_on_over_another_way,
        a_transfer_whose_leader_dies_is_begun_by_the_next,
        a_receiver_that_dies_in_the_middle_gets_another,
        a_transfer_to_an_earlier_boot_holds_up_the_next,
        a_receiver_that_takes_nothing_holds_up_others,
        a_receiver_without_room_is_sent_the_state_again_and_again,
        a_receiver_that_dies_right_after_the_snapshot_is_durable_goes_on_from_it,
        a_new_node_gets_everything_though_it_dies_on_its_way,
        several_that_need_the_state_get_it_one_after_the_other,
        a_sender_that_becomes_a_receiver_gives_up_what_it_sent,
        a_full_disk_is_relieved_by_a_snapshot,
        a_node_that_missed_more_than_is_kept_gets_the_state,
        a_state_that_has_not_changed_is_not_written_again,
        nobody_stands_who_has_to_go_on_from_a_snapshot_first;
}
