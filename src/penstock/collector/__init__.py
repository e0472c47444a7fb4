"""
Routes transactions to the shapes they may concern, and keeps account of what each shape owes.
"""
