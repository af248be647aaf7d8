//! Pictures of good runs, odd runs and no runs.

use std::fs;

use super::*;
use crate::metrics::Confusion;

fn drawn(curve: &Curve) -> (String, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let (svg, png) = (folder.path().join("curve.svg"), folder.path().join("curve.png"));
    draw(curve, &svg, &png).unwrap();
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        2,
        "no temporary file is left"
    );
    (fs::read_to_string(svg).unwrap(), fs::read(png).unwrap())
}

/// The lines of the large picture become soft when it is scaled down: there are more shades of gray than the colors that are drawn.
#[test]
fn a_bitmap_is_scaled_down_and_not_cut() {
    let (_, png) = drawn(&run(20));
    let picture = image::load_from_memory(&png).unwrap().into_rgb8();
    assert_eq!(picture.dimensions(), (1000, 420));
    let gray = picture
        .pixels()
        .map(|pixel| pixel.0)
        .filter(|[r, g, b]| r.abs_diff(*g) < 20 && g.abs_diff(*b) < 20);
    let shades: std::collections::HashSet<u8> = gray.map(|[r, ..]| r).collect();
    assert!(shades.len() > 50, "{} shades", shades.len());
}

/// A run like those of the sentence-sentiment task.
fn run(steps: u32) -> Curve {
    let mut noise = 1u32;
    let mut next = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(noise >> 8) / f64::from(1 << 24) - 0.5
    };
    let at = |step: u32| f64::from(step) / f64::from(steps);
    let train = |step: u32| 0.24 + 0.46 * (-9.0 * at(step)).exp() - 0.08 * at(step);
    let evals = || (1..=12).map(|i| steps * i / 12);
    Curve {
        title: "MiniLM, LoRA (rank 8), sentence sentiment, seed 0".into(),
        train_loss: (1..=steps)
            .map(|step| (f64::from(step), train(step) + 0.22 * next()))
            .collect(),
        eval_loss: evals()
            .map(|s| (f64::from(s), 0.27 + 0.3 * (-7.0 * at(s)).exp() + 0.03 * at(s)))
            .collect(),
        metric: "accuracy".to_owned(),
        eval_score: evals()
            .map(|s| {
                (
                    f64::from(s),
                    0.9 - 0.12 * (-6.0 * at(s)).exp() - 0.02 * (at(s) - 0.75).powi(2),
                )
            })
            .collect(),
    }
}

#[test]
fn a_run_is_drawn() {
    let curve = run(1500);
    let (svg, png) = drawn(&curve);
    assert!(
        svg.starts_with("<svg width=\"1000\" height=\"420\" stroke-linejoin=\"round\""),
        "{}",
        &svg[..80]
    );
    assert!(svg.contains("viewBox=\"0 0 4000 1680\""));
    for word in [
        "MiniLM, LoRA",
        "Loss",
        "Accuracy",
        "step",
        "training (smoothed)",
        "validation",
        "best 89.",
    ] {
        assert!(svg.contains(word), "{word}");
    }
    assert!(!svg.contains("font-family=\"DejaVu Sans\""));
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    assert_eq!(png[16..24], [0, 0, 0x03, 0xe8, 0, 0, 0x01, 0xa4], "1000 x 420");
    assert!(svg.len() < 600_000, "{}", svg.len());
    if let Ok(folder) = std::env::var("CURVE_PICTURES") {
        fs::write(format!("{folder}/run.png"), png).unwrap();
        fs::write(format!("{folder}/run.svg"), svg).unwrap();
    }
}

#[test]
fn odd_runs_are_drawn() {
    let odd = |train: &[(f64, f64)], eval: &[(f64, f64)], score: &[(f64, f64)]| Curve {
        title: "odd <&> \"title\"\n\u{7} 漢字 🙂".into(),
        train_loss: train.to_vec(),
        eval_loss: eval.to_vec(),
        metric: "explained".to_owned(),
        eval_score: score.to_vec(),
    };
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let constant: Vec<_> = (0..50).map(|i| (f64::from(i), 0.5)).collect();
    let cases = [
        odd(&[], &[], &[]),
        odd(&[(1.0, 0.7)], &[(1.0, 0.6)], &[(1.0, 0.5)]),
        odd(&[(0.0, 0.0)], &[(0.0, 0.0)], &[(0.0, 0.0)]),
        odd(&[(1.0, nan), (2.0, inf), (nan, 1.0)], &[(1.0, -inf)], &[(inf, nan)]),
        odd(
            &[(1.0, nan), (2.0, 0.5), (3.0, inf), (4.0, 0.4)],
            &[],
            &[(2.0, nan), (4.0, 1.0)],
        ),
        odd(&constant, &constant, &constant),
        odd(
            &[(1.0, 1e14), (2.0, -1e14)],
            &[(1.0, f64::MAX), (2.0, f64::MIN)],
            &[(1.0, 3.0), (2.0, -3.0)],
        ),
        odd(
            &[(5.0, 1.0), (5.0, 2.0), (3.0, 1.0)],
            &[],
            &[(5.0, 1e-12), (6.0, 2e-12)],
        ),
        odd(&[(-5.0, 1.0), (1e14, 2.0)], &[], &[(0.5, 1.0)]),
    ];
    for (number, case) in cases.iter().enumerate() {
        let (svg, png) = drawn(case);
        assert!(svg.trim_end().ends_with("</svg>"), "case {number}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "case {number}");
        assert!(png.len() > 1000, "case {number}");
        if let Ok(folder) = std::env::var("CURVE_PICTURES") {
            fs::write(format!("{folder}/odd{number}.png"), png).unwrap();
        }
    }
    assert_eq!(drawn(&cases[0]).0.matches("nothing measured yet").count(), 2);
    let (svg, _) = drawn(&cases[0]);
    assert!(svg.contains("odd &lt;&amp;&gt;") && svg.contains("explained") && !svg.contains("Accuracy"));
}

#[test]
fn a_long_run_gives_a_small_file() {
    let (svg, _) = drawn(&run(60_000));
    assert!(svg.len() < 600_000, "{}", svg.len());
}

#[test]
fn a_long_title_is_cut() {
    let (svg, _) = drawn(&Curve {
        title: "title ".repeat(500),
        ..run(50)
    });
    assert!(svg.contains("title…") || svg.contains("t…") || svg.contains("…\n"));
    assert!(svg.matches("title").count() < 30);
}

#[test]
fn a_confusion_table_has_every_count_and_darker_cells_for_larger_parts() {
    let folder = tempfile::tempdir().unwrap();
    let [svg, png] = ["table.svg", "table.png"].map(|name| folder.path().join(name));
    let labels = [
        "first",
        "<second>",
        "a class with a name that is far too long for the room in front of its row",
    ];
    let pairs = [(0, 0); 7].into_iter().chain([(0, 1), (1, 1), (2, 0), (2, 2)]);
    let confusion = Confusion::new(labels.map(str::to_owned).to_vec(), pairs);
    draw_confusion("of three", &confusion, &svg, &png).unwrap();
    let text = fs::read_to_string(&svg).unwrap();
    assert!(text.contains("first") && text.contains("&lt;second&gt;") && text.contains('…'));
    // Seven of eight, and the counts of one, of which there are four.
    assert!(text.lines().any(|line| line.trim() == "7"), "{text}");
    assert_eq!(text.lines().filter(|line| line.trim() == "1").count(), 4);
    // Nothing is nearly white, all of a row is the full color.
    assert!(text.contains("#2B66B2") && text.contains("#F2F6FA"), "{text}");
    // Width and height in the header of the PNG.
    assert_eq!(fs::read(&png).unwrap()[16..24], [0, 0, 3, 232, 0, 0, 1, 164]);
}

#[test]
fn a_picture_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let png = folder.path().join("curve.png");
    let absent = folder.path().join("absent").join("curve.svg");
    assert!(matches!(draw(&run(20), &absent, &png), Err(CurveError::Write(_))));
    let (svg, absent) = (folder.path().join("curve.svg"), absent.with_extension("png"));
    assert!(matches!(draw(&run(20), &svg, &absent), Err(CurveError::Write(_))));
}
