"""The studies: what sharing costs and saves, measured, with intervals and conditions.

`python -m sage.experiments NAME` runs one and writes `assets/results/NAME.json`; each module that
`STUDIES` names says in its docstring which question it answers.
"""

# name on the command line -> module with NAME, TITLE, run(lab) and figure(result)
STUDIES = {
    "main-table": "sage.experiments.main_table",
    "loss-forks": "sage.experiments.loss_forks",
    "grouping": "sage.experiments.grouping",
    "branch-point": "sage.experiments.branch_point",
    "soft-target": "sage.experiments.soft_target",
    "sensitivity": "sage.experiments.sensitivity",
    "open-domain": "sage.experiments.open_domain",
    "group-size": "sage.experiments.group_size",
    "trees": "sage.experiments.trees",
    "adaptive": "sage.experiments.adaptive",
    "aggregators": "sage.experiments.aggregators",
    "few-step": "sage.experiments.few_step",
    "diversity": "sage.experiments.diversity",
    "pareto": "sage.experiments.pareto",
}
