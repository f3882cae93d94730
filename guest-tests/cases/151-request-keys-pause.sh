# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: keys in requests: the guest is paused under encrypted I/O on four queues, and nothing is missed
# device: --keyslots 0
# queues: 4
# needs: fio
# host: pause 5
# host: ctl stats --format json => "lost": 0,
# host: ctl stats --format json => "lost": 0,
# check: fscrypt
# errors: expected
# stat: keyslots.program == 0
# stat: keyslots.nokey == 0
# stat: requests.failed == 0

pause_case
