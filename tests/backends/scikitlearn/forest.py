"""scikit-learn's IsolationForest on tables, for tests that hold ours against it.

    forest.py FOLDER             writes tables that scikit-learn brings or generates as FOLDER/*.npz
    forest.py --figures FILE...  prints for each table: name, rows, features, share of anomalies, mean AUC over SEEDS
    forest.py --scores FILE OUT  writes the mean score of each row over SEEDS, one per line
    forest.py --time ROWS        prints microseconds per row to fit and to score ROWS rows of 8 features, one thread
"""

import os
import sys
import time

import numpy as np
from sklearn import datasets
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

SEEDS = range(5)
TREES = 100
SAMPLE = 256


def scores(rows, seed):
    forest = IsolationForest(n_estimators=TREES, max_samples=min(SAMPLE, len(rows)), random_state=seed)
    return -forest.fit(rows).score_samples(rows)


def write(folder):
    random = np.random.default_rng(0)

    def put(name, rows, labels):
        order = random.permutation(len(rows))
        np.savez_compressed(os.path.join(folder, name), X=rows[order], y=np.asarray(labels)[order].astype(np.int64))

    cancer = datasets.load_breast_cancer()
    put("cancer", cancer.data, cancer.target == 0)
    digits = datasets.load_digits()
    for usual in (1, 6):
        strays = random.permutation(np.flatnonzero(digits.target != usual))[:20]
        rows = np.r_[np.flatnonzero(digits.target == usual), strays]
        put(f"digits{usual}", digits.data[rows].astype(np.float32), digits.target[rows] != usual)
    blobs, _ = datasets.make_blobs(2000, 5, centers=8, random_state=1)
    noise = random.uniform(blobs.min(0), blobs.max(0), (80, 5))
    put("blobs", np.r_[blobs, noise], np.r_[np.zeros(2000), np.ones(80)])
    moons, _ = datasets.make_moons(2000, noise=0.05, random_state=0)
    put("moons", np.r_[moons, random.uniform(-1.5, 2.5, (80, 2))], np.r_[np.zeros(2000), np.ones(80)])
    usual, odd = random.lognormal(0, 1, (2000, 6)), random.lognormal(0.8, 1.2, (80, 6))
    put("lognormal", np.r_[usual, odd], np.r_[np.zeros(2000), np.ones(80)])
    usual, odd = random.poisson(4, (2000, 8)), random.poisson(9, (80, 8))
    put("counts", np.r_[usual, odd].astype(np.uint8), np.r_[np.zeros(2000), np.ones(80)])


def figures(files, seeds):
    for file in files:
        table = np.load(file)
        rows, labels = table["X"], table["y"].ravel()
        auc = np.mean([roc_auc_score(labels, scores(rows, seed)) for seed in seeds])
        name = os.path.basename(file).removesuffix(".npz")
        print(f"{name}\t{len(rows)}\t{rows.shape[1]}\t{labels.mean():.4f}\t{auc:.4f}", flush=True)


def measure(count):
    rows = np.random.default_rng(0).normal(size=(count, 8))
    forest = IsolationForest(n_estimators=TREES, max_samples=SAMPLE, random_state=1)
    started = time.process_time()
    forest.fit(rows)
    fitted = time.process_time()
    forest.score_samples(rows)
    print(f"{(fitted - started) * 1e6 / count:.4f} {(time.process_time() - fitted) * 1e6 / count:.4f}")


if __name__ == "__main__":
    if sys.argv[1] == "--figures":
        figures(sys.argv[2:], SEEDS)
    elif sys.argv[1] == "--scores":
        table = np.load(sys.argv[2])["X"]
        np.savetxt(sys.argv[3], np.mean([scores(table, seed) for seed in SEEDS], axis=0))
    elif sys.argv[1] == "--time":
        measure(int(sys.argv[2]))
    else:
        write(sys.argv[1])
