"""
Serves shape logs over HTTP.
"""
