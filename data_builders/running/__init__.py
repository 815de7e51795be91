"""Runs a builder: its folder, the account of every row, what it works with, answers kept as they come."""
