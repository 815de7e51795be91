"""Answers judged by a model or by people: endpoints, criteria, replies, votes, strengths."""
