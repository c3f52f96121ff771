# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Seconds and memory of choosing mini-batches by GradMatch-PB, without the model.

    python benchmarks/gradmatch.py --shares 0.05 0.1 0.3

As for ImageNet-1k with 256 images a batch: 5,005 gradients, sketched to 4,096 numbers. They are
made up: each is a common part and noise of ten times its norm. Prints JSON, a line a share.
"""

import argparse
import json
import resource
import time

import torch

from bvit_mm.subsets.matching import batch_gradient, gram_matrix, match, sketch_of


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--batches', type=int, default=5005)
    parser.add_argument('--width', type=int, default=4096)
    parser.add_argument('--shares', type=float, nargs='+', default=[0.05, 0.1, 0.3])
    parser.add_argument('--ridge', type=float, default=0.5)
    parser.add_argument('--noise', type=float, default=10.0, help='in norms of the common part')
    args = parser.parse_args()

    torch.manual_seed(0)
    sketch = sketch_of(1000, 512, args.width, seed=0)
    scores, features = torch.randn(256, 1000), torch.randn(256, 512)
    targets = torch.nn.functional.one_hot(torch.randint(1000, (256,)), 1000)
    start = time.perf_counter()
    for _ in range(5):
        batch_gradient(scores, targets, features, sketch)
    gradient = (time.perf_counter() - start) / 5

    common = torch.randn(args.width) / args.width**0.5
    gradients = torch.randn(args.batches, args.width) * (args.noise / args.width**0.5) + common
    start, before = time.perf_counter(), _peak()
    gram = gram_matrix(gradients)
    built = time.perf_counter() - start
    products, square = gram.sum(1), float(gram.sum())
    for share in args.shares:
        count = int(share * args.batches)
        start = time.perf_counter()
        chosen, weights = match(gram, products, square, count, args.ridge)
        took = time.perf_counter() - start
        left = square - float(weights @ products[chosen] + args.ridge * weights @ weights)
        report = dict(
            batches=args.batches,
            share=share,
            chosen=len(chosen),
            residual=round((left / square) ** 0.5, 4),
            gradient_ms_a_batch=round(1000 * gradient, 1),
            gram_seconds=round(built, 2),
            match_seconds=round(took, 2),
            peak_gib=round(_peak(), 2),
            peak_before_gib=round(before, 2),
        )
        print(json.dumps(report))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == '__main__':
    main()
