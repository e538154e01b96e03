//! Names the engines that work on this machine and that a daemon does not choose by itself, for the Makefile.

use vswitch::worker::Dataplane;
use vswitch_tests::engines::{config, engines};

fn main() {
    let chosen = Dataplane::start(config(None)).expect("an engine works").engine();
    engines().iter().filter(|&&engine| engine != chosen).for_each(|engine| println!("{engine}"));
}
