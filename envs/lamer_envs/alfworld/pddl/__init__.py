"""PDDL problems of the ALFRED domain, the form in which official ALFWorld games keep their households.

What must stay true: a problem is data from outside, bounded in size, depth and work; whatever is wrong with it is one
InstanceError with line and reason. `syntax` reads lists, `facts` what a problem declares, `goals` its goal, `ground`
works the goal out for the household, `read` puts a household together, `write` writes one.
"""

from lamer_envs.alfworld.pddl.facts import shown_names as shown_names
from lamer_envs.alfworld.pddl.read import Problem as Problem
from lamer_envs.alfworld.pddl.read import read_problem as read_problem
from lamer_envs.alfworld.pddl.syntax import MAX_PROBLEM_CHARS as MAX_PROBLEM_CHARS
from lamer_envs.alfworld.pddl.write import write_problem as write_problem
