"""The command line for people: `pgqueue`. Each noun has its file, `main` puts them together, `output` is how they speak.

Verbs import what they need when they are called, so that `--help` is fast.
"""
