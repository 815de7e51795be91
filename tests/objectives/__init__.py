"""Tests of the loss terms on score tables that are written by hand or drawn: no model, no media."""
