# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: the same attacks behind vhost-user-blk-pci, with commands in-band on the request queues and in-flight tracking
# attach: vhost-user-blk
# driver: none
# needs: CONFIG_HUGETLBFS CONFIG_CRYPTO_USER_API_SKCIPHER
# device: --workers 2 --keyslots 8 --max-dun-bytes 8 --in-band
# memory: 44M
# calm: 10
# check: fscrypt
# stat: events.broken_queue > 60
# stat: requests.refused > 100
# stat: requests.unsupported > 20

attack rings requests commands races calm "$(find_port progress)"
encrypted_files in_band=1
