//! Names the engines that work on this machine, for the Makefile.

fn main() {
    vswitch_tests::engines::engines().iter().for_each(|engine| println!("{engine}"));
}
