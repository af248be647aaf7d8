"""Writes expected.json: pairs of texts and their ROUGE-L, by the package rouge_score 0.1.2.

    python make.py
"""

import json
from pathlib import Path

from rouge_score.rouge_scorer import RougeScorer

PAIRS = [
    ("police killed the gunman", "police kill the gunman"),
    ("the gunman kill police", "police kill the gunman"),
    ("Yes, it is.", "yes it is"),
    ("", "a"),
    ("a", ""),
    ("...", "?!"),
    ("The cat sat on the mat", "the mat sat on the cat, twice"),
    ("It costs 3.50 in \u00c5lesund", "3 50 lesund"),
    ("re-use of \u0130stanbul's caf\u00e9", "reuse of istanbul s caf"),
    ("a b c d e f g", "a c e g"),
    ("one two three", "four five six"),
    ("x x x y", "y x x"),
]
scorer = RougeScorer(["rougeL"])
cases = [[written, expected, scorer.score(expected, written)["rougeL"].fmeasure] for written, expected in PAIRS]
(Path(__file__).parent / "expected.json").write_text(json.dumps(cases, indent=1) + "\n")
