# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: a second frontend is refused without harm to the first; then the disk is unplugged and plugged in three times
# device: --keyslots 3
# needs: fio
# host: second
# host: replug
# host: replug
# host: replug
# check: fscrypt
# stat: keyslots.nokey == 0
# stat: requests.failed == 0
# stat: events.broken_queue == 0

replug_case 3
