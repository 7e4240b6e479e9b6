//! Runs the models.

use spdk_plugin_test_loom::models;

macro_rules! run {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                models::$name();
            }
        )*
    };
}

run!(
    no_wake_is_lost,
    a_message_stands_for_all,
    a_full_queue_loses_none,
    a_thread_that_exits_gets_no_message,
    a_home_goes_to_another_thread,
    a_result_crosses_threads,
    a_handle_may_go_meanwhile,
    an_abort_is_seen,
);
