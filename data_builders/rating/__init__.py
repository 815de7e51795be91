"""Ratings: single ones, raters' scales, agreement, and which captions become pairs or lists."""
