//! Prints rows of the table.

use super::load::Figure;

pub fn print_row(name: &str, figure: f64) {
    println!("{name:<64} {figure:>10.2}");
}

/// Prints the median, the minimum and the maximum.
pub fn print_spread(name: &str, figures: &[f64]) {
    let figures = sorted(figures.to_vec());
    let (low, high) = (figures[0], figures[figures.len() - 1]);
    println!("{name:<64} {:>10.1}   {low:.1} to {high:.1}", median(&figures));
}

/// Prints our figures, theirs, and the ratio of the medians.
pub fn compare(ours: &str, theirs: &str, figures: [&Vec<Figure>; 2]) {
    let pair = |unit: &str, of: fn(&Figure) -> f64| {
        let [our, their] = figures.map(|figures| figures.iter().map(of).collect::<Vec<f64>>());
        print_spread(&format!("{ours} ({unit})"), &our);
        print_spread(&format!("{theirs} ({unit})"), &their);
        print_row(&format!("  ratio of {unit}"), median(&our) / median(&their));
    };
    pair("calls/s", |figure| figure.calls_per_second);
    pair("server CPU µs/call", |figure| figure.server_micros_per_call);
}

pub fn median(figures: &[f64]) -> f64 {
    let figures = sorted(figures.to_vec());
    figures[figures.len() / 2]
}

pub fn minimum(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(f64::INFINITY, f64::min)
}

pub fn sorted(mut figures: Vec<f64>) -> Vec<f64> {
    figures.sort_by(f64::total_cmp);
    figures
}
