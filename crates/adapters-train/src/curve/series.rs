//! Points to draw: without what cannot be drawn, smoothed, thinned, and the ranges they need.

pub(super) type Points = Vec<(f64, f64)>;

/// The points that can be drawn.
pub(super) fn finite(points: &[(f64, f64)]) -> Points {
    // Far beyond any loss or step; arithmetic on ranges stays finite.
    const LARGEST: f64 = 1e15;
    points
        .iter()
        .copied()
        .filter(|(step, value)| step.abs() < LARGEST && value.abs() < LARGEST)
        .collect()
}

/// Points above which a line is smoothed.
const SMOOTHED_FROM: usize = 12;

/// An exponential moving average forwards, then another backwards, which takes back the first one's delay. Both weigh
/// their start correctly instead of leaning on the first value. About a twentieth of the points bear on each.
pub(super) fn smoothed(points: &[(f64, f64)]) -> Points {
    if points.len() < SMOOTHED_FROM {
        return points.to_vec();
    }
    let keep = 1.0 - 2.0 / (1.0 + (points.len() as f64 / 20.0).max(3.0));
    let mut out = points.to_vec();
    average(out.iter_mut(), keep);
    average(out.iter_mut().rev(), keep);
    out
}

fn average<'a>(points: impl Iterator<Item = &'a mut (f64, f64)>, keep: f64) {
    let (mut sum, mut weight) = (0.0, 0.0);
    for (_, value) in points {
        sum = keep * sum + (1.0 - keep) * *value;
        weight = keep * weight + (1.0 - keep);
        *value = sum / weight;
    }
}

/// At most about a thousand points: of every stretch of a longer line, its lowest and its highest.
pub(super) fn thinned(points: &[(f64, f64)]) -> Points {
    const STRETCHES: usize = 500;
    if points.len() <= 2 * STRETCHES {
        return points.to_vec();
    }
    let mut out = Vec::with_capacity(2 * STRETCHES + 2);
    for stretch in points.chunks(points.len().div_ceil(STRETCHES)) {
        let by_value = |a: &usize, b: &usize| stretch[*a].1.total_cmp(&stretch[*b].1);
        let low = (0..stretch.len()).min_by(by_value).unwrap_or(0);
        let high = (0..stretch.len()).max_by(by_value).unwrap_or(0);
        out.push(stretch[low.min(high)]);
        if low != high {
            out.push(stretch[low.max(high)]);
        }
    }
    out
}

/// The points without the highest and lowest hundredth, so that one wild step does not flatten the rest.
pub(super) fn without_outliers(points: &[(f64, f64)]) -> Points {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1));
    let cut = sorted.len() / 100;
    sorted[cut..sorted.len() - cut].to_vec()
}

/// From the first step, or zero, to the last.
pub(super) fn step_range(series: [&Points; 3]) -> (f64, f64) {
    let steps = || series.into_iter().flatten().map(|point| point.0);
    let (low, high) = (steps().fold(0.0, f64::min), steps().fold(0.0, f64::max));
    if high > low { (low, high) } else { (low, low + 1.0) }
}

/// From below the lowest value to above the highest, and higher still by the fraction `room` of that; never empty. A
/// `floor` that the values respect is not passed, and shown where they come near it.
pub(super) fn value_range(series: &[&Points], floor: Option<f64>, room: f64) -> (f64, f64) {
    let values = || series.iter().copied().flatten().map(|point| point.1);
    let (low, high) = (
        values().fold(f64::INFINITY, f64::min),
        values().fold(f64::NEG_INFINITY, f64::max),
    );
    if low > high {
        return (0.0, 1.0);
    }
    let middle = (low + high) / 2.0;
    // A constant line lies in the middle of a range about it.
    let least = if low == 0.0 && high == 0.0 {
        0.05
    } else {
        middle.abs() * 0.02
    };
    let half = ((high - low) / 2.0).max(least);
    let (mut bottom, mut top) = (middle - 1.12 * half, middle + 1.12 * half);
    if let Some(floor) = floor.filter(|&floor| floor <= low) {
        bottom = if low - floor < 0.4 * (high - floor) {
            floor
        } else {
            bottom.max(floor)
        };
    }
    top += room * (top - bottom);
    if top > bottom {
        (bottom, top)
    } else {
        (bottom, bottom + 1.0)
    }
}

/// The earliest of the highest points.
pub(super) fn best(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    points
        .iter()
        .copied()
        .reduce(|best, point| if point.1 > best.1 { point } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noisy(n: usize) -> Points {
        (0..n)
            .map(|i| {
                (
                    i as f64,
                    2.0 - i as f64 / n as f64 + if i % 2 == 0 { 0.5 } else { -0.5 },
                )
            })
            .collect()
    }

    #[test]
    fn only_what_can_be_drawn_stays() {
        let points = [
            (0.0, f64::NAN),
            (1.0, 1.0),
            (2.0, f64::INFINITY),
            (f64::NAN, 2.0),
            (3.0, f64::MAX),
        ];
        assert_eq!(finite(&points), [(1.0, 1.0)]);
    }

    #[test]
    fn smoothing_removes_noise_without_delay() {
        let smooth = smoothed(&noisy(1000));
        for &(step, value) in &smooth {
            assert!((value - (2.0 - step / 1000.0)).abs() < 0.06, "{step} {value}");
        }
        assert_eq!(smoothed(&noisy(5)), noisy(5));
        let constant = vec![(0.0, 0.5); 40];
        assert!(smoothed(&constant).iter().all(|point| (point.1 - 0.5).abs() < 1e-12));
    }

    #[test]
    fn thinning_keeps_the_extremes_in_order() {
        let mut points = noisy(100_000);
        points[54_321].1 = 9.0;
        let thin = thinned(&points);
        assert!(thin.len() <= 1000);
        assert!(thin.contains(&(54_321.0, 9.0)));
        assert!(thin.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(thinned(&noisy(900)), noisy(900));
    }

    #[test]
    fn ranges_are_never_empty() {
        assert_eq!(value_range(&[&vec![]], None, 0.0), (0.0, 1.0));
        for value in [0.0, 1.0, -3.0, 1e-9, 5e-324, 1e14] {
            let (low, high) = value_range(&[&vec![(0.0, value); 3]], Some(0.0), 0.1);
            assert!(low < high && low <= value && value <= high, "{value}: {low} {high}");
        }
        assert_eq!(step_range([&vec![], &vec![], &vec![]]), (0.0, 1.0));
        assert_eq!(step_range([&vec![(5.0, 0.0)], &vec![(9.0, 0.0)], &vec![]]), (0.0, 9.0));
    }

    #[test]
    fn ranges_respect_their_bounds() {
        let (low, high) = value_range(&[&vec![(0.0, 0.1), (1.0, 0.9)]], Some(0.0), 0.0);
        assert!(low == 0.0 && high > 0.9);
        let (low, high) = value_range(&[&vec![(0.0, 0.8), (1.0, 0.9)]], None, 0.5);
        assert!(low > 0.75 && low < 0.8 && high > 0.95 && high < 1.0);
    }

    #[test]
    fn outliers_and_the_best() {
        let mut points = vec![(0.0, 1.0); 200];
        points[7].1 = 50.0;
        assert!(without_outliers(&points).iter().all(|point| point.1 == 1.0));
        assert_eq!(best(&[(1.0, 0.5), (2.0, 0.9), (3.0, 0.9)]), Some((2.0, 0.9)));
        assert_eq!(best(&[]), None);
    }
}
