"""Solves each LP file that is named, and prints a line for it: case, file, status, objective, bound."""

import sys

import highspy

for path in sys.argv[1:]:
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("mip_rel_gap", 1e-3)
    solver.setOptionValue("time_limit", 5.0)
    solver.readModel(path)
    solver.run()
    status = solver.getModelStatus()
    info = solver.getInfo()
    words = {highspy.HighsModelStatus.kInfeasible: "infeasible", highspy.HighsModelStatus.kOptimal: "optimal"}
    word = words.get(status, "unfinished")
    print("case", path, word, float(info.objective_function_value), float(info.mip_dual_bound))
