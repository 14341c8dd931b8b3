"""The files of a run, by name; `curvexp.store` says what is in each."""

CONFIG, SUMMARY = "config.json", "summary.json"
METRICS, SPECTRUM = "metrics.jsonl", "spectrum.jsonl"
LANDSCAPE, PARAMS, TRACEBACK = "landscape.json", "params.npz", "traceback.txt"
CHECKPOINTS = "checkpoints"  # a folder

RECORDS = (METRICS, SPECTRUM)  # grow by a line
OF_AN_END = (LANDSCAPE, PARAMS, TRACEBACK)  # what only a run's end leaves
ALL = (CONFIG, SUMMARY, *RECORDS, *OF_AN_END)
MARKS = (SUMMARY, CONFIG, METRICS)  # a folder with one of these is a run
