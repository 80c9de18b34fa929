"""What people are shown of tasks, in words and by whichever face: why one waits, everything about one, a list of them,
an attempt's log. Read from the store, decided nowhere else.
"""
