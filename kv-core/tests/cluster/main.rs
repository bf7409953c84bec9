//! Whole clusters in one process: real nodes, real clients, real directories, over every transport.

mod basics;
mod delays;
mod disks;
mod ends;
mod failover;
mod faults;
mod formats;
mod harness;
mod history;
mod hostile;
#[cfg(feature = "certs")]
mod identity;
mod lanes;
mod lifetimes;
mod links;
mod load;
#[cfg(feature = "certs")]
mod logs;
mod membership;
mod metrics;
mod offline;
mod options;
#[cfg(feature = "certs")]
mod pki;
mod refusals;
mod storage;
mod transfer;
mod watches;

use harness::Net;

/// Runs each test over every transport.
macro_rules! on_every_transport {
    ($($module:ident :: { $($name:ident),* $(,)? }),* $(,)?) => {
        mod memory {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    harness::bounded($module::$name(Net::memory())).await;
                }
            )*)*
        }

        #[cfg(feature = "tcp")]
        mod tcp {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    harness::bounded($module::$name(Net::tcp())).await;
                }
            )*)*
        }

        #[cfg(all(feature = "tcp", feature = "certs"))]
        mod tcp_tls {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    harness::bounded($module::$name(Net::tcp_tls())).await;
                }
            )*)*
        }

        #[cfg(all(feature = "quic", feature = "certs"))]
        mod quic {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    harness::bounded($module::$name(Net::quic())).await;
                }
            )*)*
        }
    };
}

on_every_transport! {
    transfer::{
        t8_a_member_that_was_away_for_long_receives_the_state_while_writes_go_on,
        t6_a_member_killed_during_a_transfer_still_receives_the_state,
        a_journal_damaged_at_the_start_counts_as_repaired,
        t9_a_damaged_state_is_replaced_from_a_peer,
        t9_a_damaged_state_is_replaced_in_a_quiet_cluster,
        t9_a_state_damaged_during_use_is_replaced,
        t9_the_only_data_member_stops_at_a_bad_block_and_keeps_everything,
        t9b_states_with_a_bad_block_each_complete_each_other,
    },
    basics::{
        three_members_form_and_serve,
        one_member_alone_is_a_durable_store,
        guards_decide,
        transactions_are_atomic,
        transactions_and_writes_return_previous_values,
        ranges_are_deleted_and_many_keys_read_at_once,
        scans_go_through_everything_in_order,
        a_client_of_a_backup_works_like_any_other,
        local_reads_are_answered_by_backups_and_not_by_witnesses,
        an_embedded_client_reads_what_is_in_memory_at_once,
        the_status_shows_the_state_of_members,
    },
    lifetimes::{
        x1_a_key_expires_and_not_early_across_a_failover,
        x4_a_lease_is_kept_alive_through_a_failover,
        a_lease_that_nobody_keeps_alive_ends,
        x5_a_lock_holder_that_is_paused_past_its_lease_cannot_write_with_its_old_token,
        candidates_lead_one_after_another,
    },
    history::{
        past_revisions_read_the_same_on_any_member,
        a_read_at_least_at_a_revision_sees_it_on_every_member,
        a_read_of_bounded_staleness_is_fresh_enough_on_every_member,
        a_scan_of_several_pages_is_of_one_revision_while_others_write,
        old_history_is_compacted_and_the_rest_survives_restarts,
    },
    membership::{
        each_of_three_members_is_replaced,
        a_member_moves_to_another_address,
    },
    failover::{
        a_killed_primary_loses_and_duplicates_nothing,
        a_killed_member_catches_up_when_it_returns,
        everything_survives_the_kill_of_all_members,
        two_data_members_and_a_witness_survive_one,
        a_handover_moves_the_role_and_loses_no_write,
        a_handover_that_nobody_could_take_is_refused,
        reads_with_leases_return_the_same,
        f_proc_11_a_shutdown_hands_over_and_clients_see_no_error,
        a_shutdown_releases_port_and_directory,
        a_dropped_node_releases_port_and_directory,
        the_state_outlives_checkpoints_and_restarts,
    },
    watches::{
        a_watch_delivers_each_change_in_its_range_once_and_in_order,
        watches_continue_across_failovers,
        following_a_range_keeps_a_copy_up_to_date,
        a_compacted_watch_can_follow_again,
        a_watch_leaves_a_member_that_is_cut_off,
        watches_of_one_connection_are_bounded_and_forgotten_with_their_streams,
    },
    disks::{
        a_wiped_member_stops_and_reports_why,
        f_disk_10_a_sync_that_fails_once_ends_the_member,
        f_disk_11_a_full_disk_is_reported_and_free_space_is_enough,
        f_disk_11_a_member_waits_for_room_for_a_new_journal_file,
        f_disk_12_a_state_that_cannot_be_read_stops_the_member,
        f_disk_12_an_unreadable_journal_is_repaired_from_the_others,
        f_disk_13_a_primary_on_a_read_only_disk_steps_down,
        f_disk_14_a_backup_with_a_stalled_disk_delays_nobody,
        f_disk_14_a_primary_with_a_slow_disk_hands_over,
        f_disk_15_a_primary_with_a_stalled_disk_is_replaced,
        f_disk_15_a_shutdown_does_not_wait_for_a_disk_that_never_returns,
        f_proc_7_a_primary_whose_state_hangs_abdicates,
    },
    faults::{
        a_lossy_network_to_clients_neither_loses_nor_duplicates,
        a_lossy_network_between_members_is_survived,
        an_isolated_primary_is_replaced_and_acknowledges_nothing,
        an_isolated_backup_disturbs_nobody,
        f_net_15_a_peer_that_does_not_read_affects_only_itself,
    },
    links::{
        f_net_9_a_second_of_delay_one_way_is_adapted_to,
        f_net_10_a_flapping_link_changes_few_views,
        f_net_13_links_that_clog_and_are_released_one_by_one_converge,
        f_net_14_a_link_that_corrupts_is_reset,
        f_proc_4_a_member_that_crashes_repeatedly_disturbs_nobody,
    },
    options::{
        f6_fixed_options_do_not_change_between_restarts,
        d9_an_entry_larger_than_a_journal_file_is_stored,
        f_conf_10_a_member_whose_address_has_changed_starts,
    },
    refusals::{
        f_net_16_another_clusters_client_is_refused,
        f_conf_3_a_member_with_another_configuration_is_refused,
        a_second_node_on_one_directory_is_refused,
        an_address_in_use_is_refused_and_nothing_changes,
        another_members_directory_is_refused,
        f_load_4_connections_beyond_the_limit_are_refused,
        f_load_3_oversized_requests_are_refused_with_the_limit,
    },
    hostile::{
        f_input_1_garbage_before_the_hello_is_closed_without_an_answer,
        f_input_2_lengths_that_no_frame_has_are_closed_at_the_header,
        f_input_3_a_hello_that_takes_too_long_is_closed,
        f_input_3_a_client_that_sends_nothing_or_half_a_frame_is_closed,
        f_input_5_views_and_ops_near_the_maximum_close_the_link_and_change_nothing,
        f_input_5_views_of_other_epochs_change_nothing,
        f_input_6_gaps_and_floods_of_good_frames_are_survived,
        f_input_7_replayed_frames_are_applied_once,
        f_input_9_every_kind_from_a_stranger_is_denied,
        f_input_9_every_kind_from_the_wrong_role_or_on_the_wrong_lane_is_denied,
        f_input_9_a_hello_on_the_wrong_lane_is_refused,
        f_input_10_endless_lists_are_refused,
        f_load_1_excess_load_is_shed_and_has_no_lasting_effect,
        f_load_6_a_full_session_table_evicts_the_most_silent_and_repeats_nothing,
        f_load_6_many_clients_share_few_sessions_and_none_is_refused,
        f_load_4_a_storm_of_connections_is_capped_and_passes,
        f_load_5_a_client_that_never_reads_is_dropped,
        f_load_9_parked_watches_do_not_delay_calls,
        f_conf_4_versions_meet_or_are_refused_with_the_reason,
        f_conf_4_an_answer_in_another_version_is_an_error_at_the_caller,
    },
}

/// Runs each test over every transport that authenticates peers.
#[cfg(feature = "certs")]
macro_rules! on_every_secure_transport {
    ($($name:ident),* $(,)?) => {
        #[cfg(feature = "tcp")]
        mod secure_tcp {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    harness::bounded(identity::$name(Net::tcp_tls())).await;
                }
            )*
        }

        #[cfg(feature = "quic")]
        mod secure_quic {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    harness::bounded(identity::$name(Net::quic())).await;
                }
            )*
        }
    };
}

#[cfg(feature = "certs")]
on_every_secure_transport! {
    f_input_4_a_client_certificate_is_not_accepted_for_a_member,
    f_net_16_a_member_of_another_cluster_is_refused,
    f_conf_6_a_removed_member_is_refused_in_every_role,
    an_expired_certificate_is_refused_and_both_ends_report_it,
    a_certificate_of_another_authority_is_refused_and_both_ends_report_it,
    a_listener_must_prove_its_identity,
    f_conf_6_clients_are_admitted_and_disconnected_by_a_live_list,
    f_conf_6_all_certificates_are_rotated_under_load,
}

#[cfg(all(feature = "certs", feature = "tcp"))]
#[tokio::test]
async fn a_list_of_clients_needs_certificates() {
    harness::bounded(identity::a_list_of_clients_needs_certificates(Net::tcp())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_disk_stops_only_its_member() {
    harness::bounded(disks::a_failed_disk_stops_only_its_member(Net::memory())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_a_state_that_is_read_and_verified_slowly_arrives_at_the_first_try() {
    harness::bounded(transfer::t6_a_state_that_is_read_and_verified_slowly_arrives_at_the_first_try(
        Net::memory(),
    ))
    .await;
}

#[tokio::test]
async fn everything_works_on_one_thread() {
    harness::bounded(disks::everything_works_on_one_thread(Net::memory())).await;
}

#[cfg(all(feature = "quic", feature = "certs"))]
#[tokio::test]
async fn everything_works_on_one_thread_over_quic() {
    harness::bounded(disks::everything_works_on_one_thread(Net::quic())).await;
}

#[cfg(feature = "tcp")]
#[tokio::test]
async fn everything_works_on_one_thread_over_tcp() {
    harness::bounded(disks::everything_works_on_one_thread(Net::tcp())).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: see lanes.rs"]
async fn small_writes_beside_a_transfer() {
    harness::bounded(lanes::small_writes_beside_a_transfer(Net::memory())).await;
    #[cfg(feature = "tcp")]
    harness::bounded(lanes::small_writes_beside_a_transfer(Net::tcp())).await;
    #[cfg(all(feature = "quic", feature = "certs"))]
    harness::bounded(lanes::small_writes_beside_a_transfer(Net::quic())).await;
}

/// Runs each test over the network in memory only: it takes long, and does not depend on the transport.
macro_rules! once {
    ($($module:ident :: $name:ident),* $(,)?) => {
        mod once {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    harness::bounded($module::$name(Net::memory())).await;
                }
            )*
        }
    };
}

once!(
    delays::x1_nothing_expires_early_while_delays_jump_one_way,
    disks::f_disk_14_a_backup_with_a_slow_journal_makes_checkpoints,
    disks::f_proc_8_slow_checkpoints_on_all_members_change_no_view,
    formats::data_directories_of_earlier_builds_are_read,
    offline::a_directory_of_a_later_view_is_ahead_whatever_its_length,
    offline::damage_in_the_directory_of_a_stopped_member_is_named,
    offline::the_directory_of_a_stopped_member_is_read_and_not_changed,
);
