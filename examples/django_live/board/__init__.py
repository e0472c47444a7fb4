"""
A to-do list.
"""
