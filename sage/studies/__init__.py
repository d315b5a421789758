"""The studies: what sharing costs and saves, measured, with intervals and conditions.

`python -m sage.studies NAME` runs one and writes `assets/results/NAME.json`; each module that
`STUDIES` names says in its docstring which question it answers.
"""

# name on the command line -> module with NAME, TITLE, run(lab) and figure(result)
STUDIES = {
    "main-table": "sage.studies.main_table",
    "loss-forks": "sage.studies.loss_forks",
    "grouping": "sage.studies.grouping",
    "branch-point": "sage.studies.branch_point",
    "soft-target": "sage.studies.soft_target",
    "sensitivity": "sage.studies.sensitivity",
    "open-domain": "sage.studies.open_domain",
    "group-size": "sage.studies.group_size",
    "trees": "sage.studies.trees",
    "adaptive": "sage.studies.adaptive",
    "aggregators": "sage.studies.aggregators",
    "few-step": "sage.studies.few_step",
    "diversity": "sage.studies.diversity",
    "pareto": "sage.studies.pareto",
}
