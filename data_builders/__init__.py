"""From ratings, votes and corrections to preference records."""
