//! Does one of the core's operations so many times, for `bin/instructions` to count: `count NAME TIMES`.

#[path = "../benches/work/mod.rs"]
mod work;

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(times)) = (args.next(), args.next().and_then(|n| n.parse::<u64>().ok())) else {
        eprintln!("count NAME TIMES");
        std::process::exit(2);
    };
    let Some((_, mut operation)) = work::operations().into_iter().find(|(known, _)| *known == name) else {
        eprintln!("there is no operation {name}");
        std::process::exit(2);
    };
    (1..=times).for_each(&mut operation);
}
