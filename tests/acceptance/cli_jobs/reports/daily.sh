#!/bin/sh
# /// script
# [tool.slotsched]
# enabled = false
# ///
exit 0
