mod age;
mod detach;
mod filter;
mod listing;
mod pools;
mod table;
mod template;
fn main() {}
