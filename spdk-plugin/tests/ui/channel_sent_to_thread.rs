//! A channel stays on its SPDK thread.

use spdk_plugin::bdev::IoChannel;

fn sent(channel: IoChannel) {
    std::thread::spawn(move || drop(channel));
}

fn shared(channel: &IoChannel) {
    std::thread::scope(|scope| {
        scope.spawn(|| channel.in_flight());
    });
}

fn main() {}
