# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the guest is paused under encrypted I/O, with more keys than keyslots: no key is lost, and no request gets NOKEY
# device: --keyslots 3
# queues: 4
# needs: fio
# host: pause 5
# host: ctl stats --format json => "lost": 0,
# host: ctl keyslots => no keyslot holds a key
# check: fscrypt
# errors: expected
# stat: keyslots.replace > 0
# stat: keyslots.nokey == 0
# stat: requests.failed == 0

pause_case
