# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the device never answers a command: unbind waits for a limited time, and everything works after bind
# host: ctl fault add stuck,op=program => fault
# host: ctl fault clear => 1 faults are cleared
# check: fscrypt
# errors: expected
# stat: events.fault == 1

unanswered_command_case
