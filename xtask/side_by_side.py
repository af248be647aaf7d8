#!/usr/bin/env python3
"""Time `adapters bench` beside AdapterHub's library on an encoder, both in one run, and print the ratio of the medians.

    pip install torch adapters
    python xtask/side_by_side.py target/release/adapters models/all-MiniLM-L6-v2 --adapter lora --batch 16 --seq 128

Above 1 this library is faster. The weights of the Python side are random: they do not change the time. Nothing else should run.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time

import adapters
import torch
import transformers


def reference(args):
    """A forward pass and a training step of the Python library, as functions without arguments."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(args.model)
    model = transformers.AutoModel.from_config(config, attn_implementation="sdpa")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = args.dropout
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = args.dropout
    adapters.init(model)
    model.add_adapter("a", config=args.adapter)
    model.train_adapter("a")
    head = torch.nn.Linear(config.hidden_size, 2)
    trained = [p for p in model.parameters() if p.requires_grad] + list(head.parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(5, config.vocab_size, (args.batch, args.seq))
    mask, labels = torch.ones_like(ids), torch.arange(args.batch) % 2

    def forward():
        model.eval()
        with torch.no_grad():
            model(input_ids=ids, attention_mask=mask)

    def step():
        model.train()
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        torch.nn.functional.cross_entropy(head(hidden.mean(1)), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return {"forward": forward, "training step": step}


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", help="the `adapters` command, built with --release")
    parser.add_argument("model", help="folder of an encoder")
    parser.add_argument("--adapter", default="lora", help="config string that both libraries read")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--precision", default="f32", help="of this library; Python computes in f32")
    args = parser.parse_args()

    python = reference(args)
    for run in python.values():
        run(), run()
    times = {"ours": {name: [] for name in python}, "python": {name: [] for name in python}}
    options = ["model", "adapter", "batch", "seq", "repeats", "threads", "dropout", "precision"]
    command = [args.command, "bench", "--json"]
    for name in options:
        command += [f"--{name}", str(getattr(args, name))]
    for _ in range(args.rounds):
        for name, run in python.items():
            times["python"][name] += [seconds(run) for _ in range(args.repeats)]
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        for entry in report["times"]:
            if entry["operation"] in python:
                times["ours"][entry["operation"]].append(entry["median_s"])
    for name in python:
        ours, theirs = (statistics.median(times[side][name]) for side in ("ours", "python"))
        print(f"{name}: ours {1e3 * ours:.0f} ms, python {1e3 * theirs:.0f} ms: {theirs / ours:.2f}")


if __name__ == "__main__":
    sys.exit(main())
