"""The paper's tables and figures as grids of runs: what is run (`grid`), made and done (`jobs`, `running`), and what
came of it (`results`, `claims`, `report`).

What must stay true: what a target is made of stands in data files (`targets/*.yaml`, `scales.yaml`), not in code.
"""
