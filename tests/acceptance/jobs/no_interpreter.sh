#!/nonexistent/interpreter
# /// script
# [tool.slotsched]
# max_time = "60s"
# ///
