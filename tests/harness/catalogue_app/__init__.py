"""
An app of Django with one model.
"""
