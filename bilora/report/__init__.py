"""The report: a page with figures of one or more runs."""
