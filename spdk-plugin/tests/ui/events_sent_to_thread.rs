use spdk_plugin::bdev::Events;

fn elsewhere(mut events: Events) {
    std::thread::spawn(move || drop(events.next()));
}

fn main() {}
