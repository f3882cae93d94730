# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a function reset under verified I/O: keys are programmed again before any request, and nothing is lost
# root-port: yes
# needs: fio
# queues: 2
# check: fscrypt
# stat: keyslots.lost > 0
# stat: keyslots.nokey == 0

function_reset_case
