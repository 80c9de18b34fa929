#!/bin/sh
# /// script
# [tool.slotsched]
# ///
exit 0
