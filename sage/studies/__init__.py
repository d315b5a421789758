"""The studies: what sharing costs and saves, measured, with intervals and conditions.

`python -m sage.studies NAME` runs one and writes `assets/results/NAME.json` and its figure. A study
is a module here that declares a `STUDY` (`sage.studies.engine.study.Study`) and has a line below.
"""

# In the order of the tables; the module of "main-table" is main_table.py.
STUDIES = (
    "map",
    "schedules",
    "main-table",
    "loss-forks",
    "grouping",
    "branch-point",
    "soft-target",
    "sensitivity",
    "open-domain",
    "group-size",
    "trees",
    "adaptive",
    "aggregators",
    "few-step",
    "diversity",
    "pareto",
    "trunks",
    "when",
    "large-groups",
    "coherence",
    "pay-once",
)
