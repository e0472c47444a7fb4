"""
What Penstock costs, as ratios to Postgres's own tools measured in the same run.
"""
