"""One story each: load, plan, run on Ray, report."""
