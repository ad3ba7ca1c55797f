"""A cohort: many slides on one queue, each with its own result, and one account of them all."""
