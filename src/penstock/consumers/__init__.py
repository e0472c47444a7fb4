"""
The one writer of each shape: conversion, snapshots, the life of a shape from creation to rotation.
"""
