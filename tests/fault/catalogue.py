"""Faults F01 to F90 (processes, child, storage, host, network, bad input): what is done, and which tests make it.

A row counts as survived only if its tests pass and say that its fault was seen (`tests.support.faults.saw`): `make
proof` counts. Rows read as they do since there is a keeper: what a dead codexd leaves goes on, and is not ended.
"""

from __future__ import annotations

from typing import Final, NamedTuple

C: Final = "tests/contract/"
F: Final = "tests/fault/"
P: Final = "tests/proof/"
U: Final = "tests/unit/"


class Row(NamedTuple):
    """`tests` are node ids; without any, `why` says why nobody makes this fault."""

    id: str
    fault: str
    tests: tuple[str, ...]
    why: str = ""


CATALOGUE: Final = (
    # Processes
    Row(
        "F01",
        "codexd is killed at random under load",
        (
            f"{F}test_kills.py::test_twenty_random_kills_of_codexd_lose_nothing_and_repeat_nothing",
            f"{P}test_crashloop.py::test_a_short_crash_loop_loses_nothing_and_does_nothing_twice",
        ),
    ),
    Row(
        "F02",
        "codexd is killed within a commit, at its sync, before an answer",
        (f"{F}test_failpoints.py::test_killed_at_this_point_it_comes_back_with_all_that_it_answered",),
    ),
    Row(
        "F03",
        "codexd stands still for a while, and goes on",
        (
            f"{F}test_host.py::test_a_codexd_that_stands_still_misses_nothing",
            f"{F}test_sleep.py::test_nothing_is_ended_by_time_in_which_codexd_was_stopped",
        ),
    ),
    Row(
        "F04",
        "codexd gets SIGTERM in mid-turn, and a second one",
        (
            f"{F}test_stop.py::test_a_stop_in_mid_turn_interrupts_it_and_leaves_no_process",
            f"{F}test_stop.py::test_a_drain_takes_no_turn_and_a_second_signal_ends_it",
        ),
    ),
    Row(
        "F05",
        "the child is killed in mid-turn",
        (f"{F}test_kills.py::test_the_death_of_the_child_ends_its_turn_and_is_told_before",),
    ),
    Row(
        "F06",
        "the child exits with 0 in mid-turn",
        (f"{F}test_child_words.py::test_a_child_that_leaves_with_0_in_mid_turn_has_not_completed_it",),
    ),
    Row("F07", "the child hangs", (f"{F}test_watch.py::test_a_frozen_codex_is_found_ended_and_replaced",)),
    Row(
        "F08",
        "every child exits at once",
        (f"{F}test_stop.py::test_a_child_that_always_ends_is_told_and_tried_ever_later",),
    ),
    Row(
        "F09",
        "the child never answers initialize",
        (f"{F}test_unanswered.py::test_a_child_that_never_answers_the_handshake_is_ended_and_the_next_one_tried",),
    ),
    Row(
        "F10",
        "the child never answers turn/start",
        (f"{F}test_unanswered.py::test_a_request_that_is_not_answered_ends_its_turn_and_no_other",),
    ),
    Row(
        "F11",
        "answers too late, twice, to nobody, with an id of another type",
        (f"{F}test_child_words.py::test_answers_that_come_again_or_to_nobody_change_nothing",),
    ),
    Row("F12", "turn/completed twice", (f"{F}test_child_words.py::test_an_end_that_comes_again_is_no_end",)),
    Row(
        "F13",
        "the child ignores EOF and SIGTERM",
        (f"{F}test_keeper_child.py::test_a_child_that_ignores_eof_and_term_is_killed",),
    ),
    Row(
        "F14",
        "grandchildren: plain, in the background, with setsid, double-forked",
        (
            f"{F}test_interrupt.py::test_a_live_command_and_its_children_are_dead_before_it_is_told",
            f"{F}test_keeper_child.py::test_a_grandchild_in_its_own_session_is_killed_at_the_end",
        ),
    ),
    Row(
        "F15",
        "the keeper dies with such grandchildren below it",
        (f"{F}test_orphans.py::test_what_outlived_a_killed_keeper_is_ended_before_the_next_child",),
    ),
    Row(
        "F16",
        "the holder of a lease is killed",
        (
            f"{F}test_leadership.py::test_the_standby_takes_over_when_the_leader_is_killed",
            f"{F}test_worker.py::test_one_that_is_killed_is_gone_when_its_heartbeat_expires",
        ),
    ),
    Row(
        "F17",
        "the child takes more memory than it may",
        (f"{F}test_watch.py::test_one_beyond_the_hard_limit_is_ended_in_mid_turn",),
    ),
    Row(
        "F18",
        "500 orphans end below the keeper",
        (f"{F}test_keeper_child.py::test_orphans_that_end_are_reaped_while_the_child_lives",),
    ),
    # The child's bytes
    Row(
        "F20",
        "lines that are no messages",
        (f"{F}test_child_bytes.py::test_lines_that_are_no_messages_are_told_and_passed_over",),
    ),
    Row(
        "F21",
        "half a line, then the end",
        (f"{F}test_child_bytes.py::test_a_line_that_its_end_cut_short_does_not_count",),
    ),
    Row(
        "F22",
        "a line of 10 MB, and one of 40 MB",
        (f"{F}test_child_bytes.py::test_a_long_line_is_read_and_an_endless_one_is_skipped",),
    ),
    Row(
        "F23",
        "bytes that are no UTF-8, NUL",
        (f"{F}test_child_bytes.py::test_bytes_that_are_no_utf_8_are_told_and_stored_as_text",),
    ),
    Row("F24", "a flood of events", (f"{F}test_child_bytes.py::test_a_flood_of_events_is_taken_whole",)),
    Row(
        "F25",
        "a flood of stderr",
        (
            f"{F}test_child_bytes.py::test_a_flood_of_stderr_blocks_nothing_and_leaves_its_end",
            f"{F}test_keeper_child.py::test_of_a_flood_of_stderr_the_end_is_kept",
        ),
    ),
    Row(
        "F26",
        "the child closes its stdin, its stdout or its stderr, and lives",
        (
            f"{F}test_watch.py::test_a_codex_that_no_longer_hears_or_speaks_is_hung",
            f"{F}test_watch.py::test_without_its_stderr_it_lives_on",
        ),
    ),
    Row(
        "F27",
        "the child reads no more",
        (f"{F}test_keeper.py::test_a_child_that_does_not_read_blocks_nothing_and_fills_no_memory",),
    ),
    Row(
        "F28",
        "numbers and depths that no reader can take",
        (f"{F}test_child_bytes.py::test_numbers_and_depths_that_no_reader_can_take_are_told",),
    ),
    Row(
        "F29",
        "a flood of questions, and questions of unknown kinds",
        (f"{F}test_child_words.py::test_a_flood_of_questions_has_an_end_and_strange_ones_are_refused_at_once",),
    ),
    Row(
        "F30",
        "escapes, bidi and HTML in an answer",
        (f"{F}test_child_bytes.py::test_what_would_act_is_stored_as_it_was_and_shown_as_text",),
    ),
    # Storage
    Row(
        "F40",
        "the disk is full: while codexd runs, at its start, at a checkpoint, at an upgrade",
        (
            f"{F}test_disk_full.py::test_a_full_disk_refuses_what_is_new_and_loses_nothing_of_what_runs",
            f"{F}test_disk_full.py::test_codexd_starts_on_a_full_disk_and_goes_on_when_there_is_space",
            f"{F}test_disk_full.py::test_a_checkpoint_that_finds_no_space_loses_no_row_and_is_made_up_for",
            f"{F}test_disk_full.py::test_an_upgrade_that_finds_no_space_changes_nothing_and_is_made_up_for",
        ),
    ),
    Row(
        "F41",
        "the state folder is read-only",
        (
            f"{F}test_log_errors.py::test_codexd_does_not_start_on_a_read_only_folder_and_says_why",
            f"{F}test_log_errors.py::test_a_folder_that_becomes_read_only_is_met_as_a_full_disk_is",
        ),
    ),
    Row(
        "F42",
        "EIO at a write or a sync",
        (f"{F}test_log_errors.py::test_after_a_failed_sync_nothing_is_acknowledged_and_nothing_tried_again",),
    ),
    Row(
        "F43",
        "slow writes",
        (f"{F}test_log_errors.py::test_slow_writes_cost_time_and_nothing_else",),
    ),
    Row(
        "F44",
        "the log is cut short, or an older copy of it",
        (
            f"{F}test_stop.py::test_a_log_that_went_back_is_another_log",
            f"{F}test_log_damage.py::test_a_log_that_lost_its_end_is_another_log_and_its_open_turns_are_lost",
            f"{U}test_log_faults.py"
            "::test_whatever_happens_to_the_write_ahead_file_the_rows_are_right_or_the_loss_is_said",
        ),
    ),
    Row(
        "F45",
        "the log is damaged",
        (
            f"{F}test_log_damage.py::test_a_log_whose_beginning_is_gone_is_set_aside_and_its_child_ended",
            f"{F}test_log_damage.py"
            "::test_damage_that_boot_does_not_meet_ends_codexd_and_the_next_one_sets_the_log_aside",
            f"{U}test_log_faults.py::test_a_damaged_log_is_set_aside_whole_and_another_begins",
        ),
    ),
    Row(
        "F46",
        "the log is of a newer release",
        (f"{F}test_stop.py::test_the_log_of_a_newer_release_is_refused_and_left_alone",),
    ),
    Row(
        "F47",
        "the high-water mark is torn",
        (f"{U}test_log_faults.py::test_a_torn_slot_costs_no_more_than_the_last_mark",),
    ),
    Row(
        "F48",
        "an answer before its sync",
        (
            f"{P}test_order.py::test_codexd_tells_nothing_that_is_not_synced",
            f"{P}test_order.py::test_a_log_that_does_not_sync_its_commits_is_seen",
        ),
    ),
    Row(
        "F49",
        "a long reader holds up the checkpoint",
        (f"{U}test_log_file.py::test_a_long_reader_makes_the_write_ahead_file_grow_and_it_comes_back",),
    ),
    Row(
        "F50",
        "no inodes are left",
        (f"{F}test_log_errors.py::test_without_inodes_what_runs_goes_on_and_new_turns_too",),
    ),
    Row(
        "F51",
        "the lock or the mark file is removed while codexd runs; without its token file a program refuses everybody",
        (
            f"{F}test_log_errors.py::test_without_its_lock_codexd_ends_and_the_next_one_goes_on",
            f"{F}test_log_errors.py::test_the_mark_may_go_while_codexd_runs_and_is_made_again",
        ),
    ),
    # The host
    Row(
        "F55",
        "the wall clock jumps",
        (
            f"{F}test_host.py::test_a_wall_clock_that_jumps_ends_nothing_and_orders_nothing",
            f"{U}test_clock_jumps.py::test_a_wall_clock_that_is_set_ends_no_turn_and_puts_off_no_end",
            f"{U}test_clock_jumps.py::test_the_next_codexd_knows_how_long_a_turn_was_silent",
        ),
    ),
    Row(
        "F56",
        "the machine sleeps",
        (
            f"{F}test_host.py::test_a_machine_that_slept_has_lost_nobody",
            f"{F}test_sleep.py::test_nothing_is_ended_by_time_in_which_codexd_was_stopped",
        ),
    ),
    Row("F57", "no descriptors are left", (f"{F}test_host.py::test_without_descriptors_it_pauses_and_comes_back",)),
    Row(
        "F58",
        "no memory is left to codexd",
        (f"{F}test_host.py::test_a_codexd_without_memory_loses_nothing_that_it_answered",),
    ),
    Row(
        "F59",
        "no process can be started",
        (f"{F}test_host.py::test_while_no_process_can_be_started_it_says_so_and_tries_again",),
    ),
    Row("F60", "the port is in use", (f"{F}test_stop.py::test_a_taken_port_is_refused",)),
    Row(
        "F61",
        "two codexd on one state folder",
        (
            f"{F}test_stop.py::test_a_second_codexd_on_the_same_state_is_refused_and_disturbs_nothing",
            f"{F}test_stop.py::test_a_way_to_the_state_through_a_link_is_the_same_state",
            f"{F}test_stop.py::test_of_fifty_that_start_at_once_on_one_state_one_lives",
        ),
    ),
    Row(
        "F62",
        "Codex is missing, cannot be run, is too old",
        (
            f"{F}test_stop.py::test_without_codex_reads_go_on_and_turns_are_refused",
            f"{F}test_child.py::test_what_can_never_start_is_not_tried_again_until_it_changes",
            f"{F}test_child.py::test_a_codex_that_is_too_old_is_ended_and_named",
        ),
    ),
    Row(
        "F63",
        "no HOME, no locale, no TMPDIR, closed standard streams",
        (f"{F}test_host.py::test_it_starts_with_nothing_but_what_it_needs",),
    ),
    # The network
    Row(
        "F70",
        "a reader of a stream takes nothing",
        (
            f"{C}test_codexd_streams.py::test_a_reader_that_stops_reading_is_cut_off_and_comes_back_by_its_cursor",
            f"{C}test_codexd_streams.py::test_a_websocket_that_is_not_read_is_closed_with_its_own_code",
            f"{C}test_passthrough.py::test_a_caller_that_takes_nothing_is_cut_off_from_both_sides",
        ),
    ),
    Row(
        "F71",
        "a crowd of connections, silent, half, of streams, and reset at once",
        (f"{F}test_crowds.py::test_a_crowd_is_served_up_to_the_limit_and_leaves_nothing",),
    ),
    Row(
        "F72",
        "a peer is gone, with a reset or without a word",
        (
            f"{C}test_codexd_streams.py::test_a_reader_that_is_gone_is_noticed_though_nothing_is_told",
            f"{C}test_serve.py::test_a_reader_that_answers_no_ping_is_cut_off_though_a_send_waits",
        ),
    ),
    Row(
        "F73",
        "heads, bodies and handshakes that trickle, or never end",
        (
            f"{C}test_slow.py::test_what_trickles_is_cut_off_and_reaches_nobody",
            f"{C}test_slow.py::test_a_half_request_is_told_that_it_was_too_slow",
            f"{C}test_slow.py::test_a_later_request_has_no_more_time_than_the_first",
        ),
    ),
    Row(
        "F74",
        "a crowd of readers replays the log at once",
        (f"{F}test_crowds.py::test_readers_of_the_whole_log_get_it_alike_and_hold_up_nobody",),
    ),
    Row(
        "F75",
        "readers begin anywhere in the log while it is written",
        (f"{F}test_crowds.py::test_wherever_a_reader_begins_it_goes_over_to_what_comes_without_a_gap",),
    ),
    Row(
        "F76",
        "a client is cut off while it asks, and asks again with its key",
        (f"{C}test_codexd_turns.py::test_a_client_that_was_cut_off_asks_again_with_its_key_and_there_is_one_turn",),
    ),
    Row(
        "F77",
        "codexd restarts under the conductor",
        (f"{C}test_conductor.py::test_a_turn_that_is_asked_for_again_while_codexd_restarts_is_one",),
    ),
    Row(
        "F78",
        "a leader stands still, and goes on when another leads",
        (
            f"{F}test_leadership.py::test_a_frozen_leader_comes_back_as_standby",
            f"{F}test_fleet_leader.py"
            "::test_a_leader_frozen_in_the_middle_of_a_write_is_followed_and_writes_nothing_when_it_wakes",
            f"{C}test_dispatch.py::test_a_leader_whose_term_is_over_writes_nothing_and_steps_down",
        ),
    ),
    Row(
        "F79",
        "TLS, HTTP/2, mail and other protocols are spoken to a port",
        (f"{C}test_bad_bytes.py::test_no_bytes_are_read_in_two_ways",),
    ),
    # Bad input
    Row(
        "F80",
        "whatever the description of the API allows and forbids",
        (f"{P}test_inputs.py::test_whatever_a_description_allows_and_forbids_is_answered_as_described",),
    ),
    Row(
        "F81",
        "300 bodies that are no good JSON",
        (
            f"{C}test_bad_values.py::test_what_is_no_good_json_is_refused",
            f"{U}test_envelope.py::test_what_is_not_our_json_is_invalid_json",
        ),
    ),
    Row(
        "F82",
        "depths and numbers beyond what is taken",
        (
            f"{C}test_bad_values.py::test_what_is_no_good_json_is_refused",
            f"{U}test_envelope.py::test_what_is_not_our_json_is_invalid_json",
        ),
    ),
    Row(
        "F83",
        "text in all its forms, and what is no text",
        (
            f"{C}test_bad_values.py::test_text_is_kept_as_it_was_or_refused",
            f"{U}test_envelope.py::test_text_that_cannot_be_stored_is_an_invalid_request",
        ),
    ),
    Row(
        "F84",
        "ids that are none, and ways to files in their place",
        (
            f"{C}test_bad_values.py::test_what_is_no_id_finds_nothing",
            f"{C}test_bad_values.py::test_an_id_never_becomes_the_name_of_a_file",
            f"{U}test_ids.py::test_what_is_no_turn_id_is_told_from_one",
        ),
    ),
    Row(
        "F85",
        "requests that can be read in two ways, or in none",
        (f"{C}test_bad_bytes.py::test_no_bytes_are_read_in_two_ways",),
    ),
    Row(
        "F86",
        "every route of every program, with every host, origin and token",
        (
            f"{P}test_guarded.py::test_every_cell_is_right",
            f"{P}test_guarded.py::test_a_guard_with_one_check_less_is_noticed",
            f"{C}test_door.py::test_what_must_be_refused_is_refused_over_a_socket_and_changes_nothing",
        ),
    ),
    Row(
        "F87",
        "frames that are no good WebSocket",
        (f"{C}test_bad_bytes.py::test_frames_that_are_none_end_their_own_socket",),
    ),
    Row(
        "F88",
        "a folder that is none, is not for work, or is changed for another after it was checked",
        (
            f"{U}test_policy.py::test_a_folder_that_is_not_for_work_is_above_the_ceiling",
            f"{U}test_policy.py::test_what_is_no_absolute_path_of_a_folder_is_an_invalid_request",
            f"{U}test_policy.py::test_a_folder_that_has_become_a_link_is_worked_in_no_further",
            f"{C}test_bad_values.py::test_no_session_is_made_where_no_work_may_be_done",
            f"{U}test_policy.py::test_our_state_is_known_by_what_it_is_and_not_only_by_its_name",
        ),
    ),
    Row(
        "F89",
        "more is asked for than the ceiling, or than there is",
        (
            f"{U}test_ceiling.py::test_a_request_gets_the_power_that_it_asks_for_up_to_the_ceiling",
            f"{C}test_codexd_turns.py::test_a_session_keeps_under_the_ceiling",
        ),
    ),
    Row(
        "F90",
        "a configuration or a token file that is wrong, huge, or open to others",
        (
            f"{U}test_config.py::test_a_mistake_in_the_file_is_told_with_its_place",
            f"{U}test_config_huge.py::test_a_huge_file_is_refused_in_few_words",
            f"{U}test_tokens.py::test_a_token_file_that_cannot_be_trusted_is_refused_by_name_and_cure",
            f"{C}test_program_process.py::test_a_configuration_that_is_wrong_is_78_and_says_where",
            f"{C}test_program_process.py::test_a_token_that_others_can_read_is_78_and_says_which",
        ),
    ),
)
"""Every row of the dossier's, F01 to F18, F20 to F30, F40 to F51, F55 to F63, F70 to F90."""
